"""Which subject area a module of Python's standard library belongs to.

A table, written by hand after the chapters of the library reference. Modules that fit no area, or several, stand in
none and are left out of the data set.
"""

from __future__ import annotations

SUBJECTS: dict[str, str] = {
    "concurrency": "asyncio asyncore asynchat concurrent multiprocessing threading _threading_local queue sched "
    "selectors subprocess contextvars signal _aix_support pty",
    "files and archives": "_compression bz2 compression dbm filecmp fileinput fnmatch genericpath glob gzip io _pyio "
    "linecache lzma ntpath nturl2path os pathlib pickle copyreg posixpath shelve shutil sqlite3 stat tarfile "
    "tempfile zipfile _bz2 sndhdr chunk aifc sunau wave imghdr",
    "graphical interfaces": "tkinter turtle idlelib curses",
    "internet data": "base64 binhex email html json mailbox mailcap mimetypes quopri uu xml _markupbase plistlib "
    "xdrlib tomllib netrc csv",
    "language tools": "_ast_unparse ast code codeop compileall dis inspect keyword lib2to3 "
    "modulefinder opcode pickletools py_compile pyclbr pydoc symtable tabnanny token tokenize annotationlib "
    "_pyrepl rlcompleter string.templatelib",
    "modules and packaging": "__future__ _osx_support _sitebuiltins distutils ensurepip imp importlib "
    "pkgutil platform runpy site sysconfig venv zipapp zipimport",
    "networking": "cgi cgitb ftplib http imaplib ipaddress nntplib poplib smtpd smtplib socket socketserver ssl "
    "telnetlib urllib webbrowser wsgiref xmlrpc",
    "numbers and dates": "_pydatetime _pydecimal _pylong _strptime calendar colorsys datetime decimal fractions "
    "numbers random secrets statistics zoneinfo",
    "objects and collections": "_collections_abc _py_abc _weakrefset abc bisect collections contextlib copy "
    "dataclasses enum functools graphlib heapq operator types typing weakref",
    "testing and debugging": "_colorize bdb doctest faulthandler logging pdb profile profiling cProfile pstats timeit "
    "trace traceback tracemalloc unittest warnings _py_warnings",
    "text and command lines": "argparse cmd codecs configparser difflib encodings getopt getpass "
    "gettext locale optparse pprint re reprlib shlex sre_compile sre_parse string stringprep textwrap",
}
"""Subject area → top-level modules, or dotted names for a part of a package."""

_SUBJECT_OF = {module: subject for subject, modules in SUBJECTS.items() for module in modules.split()}


def subject_of(module: str) -> str | None:
    """The subject area of a dotted module name, by its longest known prefix; None where the table has none."""
    name = module
    while name:
        if name in _SUBJECT_OF:
            return _SUBJECT_OF[name]
        name = name.rpartition(".")[0]
    return None
