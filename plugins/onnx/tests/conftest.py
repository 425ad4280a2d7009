"""Exports that several tests look at, made once."""

from __future__ import annotations

import pytest

from plugins.onnx.tests.jobs import bert, export, job_for
from potstill.export import Artifact, ExportJob


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportJob, Artifact]:
    """One whole export, timed: a student partly in train mode, INT8, a teacher of another vocabulary."""
    student = bert().train()
    student.bert.encoder.layer[1].eval()
    job = job_for(tmp_path_factory.mktemp("export"), student, bert(layers=1, vocabulary=40, seed=1))
    return job, export(job, attention="plain", rounds=6)


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportJob, Artifact]:
    """The same student as exported by default, which is with fused attention."""
    job = job_for(tmp_path_factory.mktemp("fused"), bert())
    return job, export(job, time=False)
