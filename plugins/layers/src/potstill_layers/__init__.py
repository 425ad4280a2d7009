"""Freely matched layers: any feature of a teacher's layer against any feature of a student's, by any loss."""
