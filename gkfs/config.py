"""Which settings there are, and the TOML file they may stand in. Decisions only: no option parsing, no output.

A setting is one row of `SETTINGS`: its key in the file, which with dashes is its long option and in capitals after
`GKFS_` its environment variable, and the verbs that take it. In the file a key at the top holds for every verb
that takes it, a key in the table of a verb for that one:

    hostfile = "/scratch/job/hosts"
    daemons = 2

    [mount]
    allow_other = true

Precedence is file < environment < command line. What the file holds beyond that is refused, so that a misspelt key
is not silently without effect.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import CONFIGURATION_MAX_BYTES


class Kind(Enum):
    """What values a setting takes; the value says it to a person."""

    PATH = "a path in quotes"
    TEXT = "a text in quotes"
    INTEGER = "a whole number"
    SECONDS = "a number of seconds"
    SIZE = "a size as 200G in quotes, or a number of bytes"
    FLAG = "true or false"


_TYPES: Final[dict[Kind, tuple[type, ...]]] = {
    Kind.PATH: (str,),
    Kind.TEXT: (str,),
    Kind.INTEGER: (int,),
    Kind.SECONDS: (int, float),
    Kind.SIZE: (str, int),
    Kind.FLAG: (bool,),
}


class Setting(NamedTuple):
    """One option; *short* is its one-letter form or empty. *default*: of a flag."""

    key: str
    kind: Kind
    short: str
    verbs: tuple[str, ...]
    help: str
    default: bool = False

    @property
    def option(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return "GKFS_" + self.key.upper()


CONFIG_VARIABLE: Final = "GKFS_CONFIG"
DEBUG_VARIABLE: Final = "GKFS_DEBUG"
DIRECT_IO_VARIABLE: Final = "GKFS_DIRECT_IO"  # 0: daemons do all I/O through the page cache
LOG_VARIABLE: Final = "GKFS_WRITE_AHEAD_LOG"  # 0: a daemon that is killed loses what it had; to be measured
MERGE_VARIABLE: Final = "GKFS_MERGE"  # 0: each request is sent, executed and answered by itself, to be measured

_NUMBER_END: Final = 1 << 63
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([KMGTPkmgtp]?)i?[Bb]?")
_SERVING: Final = ("run", "start", "mount", "daemon")
_STAGING: Final = ("stage-in", "stage-out")
_PACKING: Final = ("pack", "unpack")
# Short forms are those of the original GekkoFS where it has the option.
SETTINGS: Final = (
    Setting("rootdir", Kind.PATH, "r", _SERVING, "Folder that holds the daemons' folders."),
    Setting(
        "mountdir",
        Kind.PATH,
        "m",
        ("run", "start", "mount", "umount", *_STAGING),
        "Folder the file system appears in.",
    ),
    Setting(
        "hostfile",
        Kind.PATH,
        "H",
        ("start", "mount", "stop", "status", "fsck", "daemon", *_STAGING, *_PACKING, "du"),
        "File that names the daemons; the same on all nodes.",
    ),
    Setting(
        "daemons",
        Kind.INTEGER,
        "n",
        _SERVING,
        "Number of daemons; of each node, in a job.",
    ),
    Setting("with_daemon", Kind.FLAG, "", ("mount",), "Run this node's daemon, too, in the process of the mount."),
    Setting(
        "separate_daemon", Kind.FLAG, "", ("run",), "Run the one daemon in a process of its own, not the mount's."
    ),
    Setting("capacity", Kind.SIZE, "", _SERVING, "Most that one daemon stores: chunks and records, as 200G."),
    Setting(
        "checksums",
        Kind.FLAG,
        "",
        (*_SERVING, "fsck"),
        "Keep checksums of all data, and verify what is read.",
    ),
    Setting("sync", Kind.TEXT, "", _SERVING, "What survives a node's power failure; see docs/durability.md."),
    Setting(
        "replicas", Kind.INTEGER, "", _SERVING, "Keep everything on so many daemons: 2 survive the loss of one."
    ),
    Setting("index", Kind.INTEGER, "i", ("mount", "daemon"), "Which of the daemons this is, from 0."),
    Setting("listen", Kind.TEXT, "l", _SERVING, "Address to listen on, tcp://HOST:PORT."),
    Setting("advertise", Kind.TEXT, "", _SERVING[1:], "Host name or address that others reach it at."),
    Setting("tls", Kind.FLAG, "", _SERVING, "Encrypt all that goes over the network; fixed when it is made."),
    Setting(
        "launcher",
        Kind.TEXT,
        "",
        ("run", "start", *_PACKING),
        "What starts it on all nodes; auto: what is found.",
    ),
    Setting(
        "hosts",
        Kind.TEXT,
        "",
        ("run", "start", *_PACKING),
        "Nodes: a,b,c or a file (with a / in its name) of names.",
    ),
    Setting("serve_on", Kind.TEXT, "", ("run", "start"), "Only these nodes run daemons."),
    Setting("mount_on", Kind.TEXT, "", ("run", "start"), "Only these nodes mount."),
    Setting("interface", Kind.TEXT, "", ("run", "start"), "Network interface the nodes' daemons are called at."),
    Setting("cores", Kind.TEXT, "", ("run", "start"), "Processor cores for daemons and mount, as 0-3,8."),
    Setting("env_file", Kind.PATH, "", ("start",), "File for the variables that steps of the job need."),
    Setting("allow_other", Kind.FLAG, "", ("run", "start", "mount"), "Let other users use the mount, too."),
    Setting(
        "direct_io", Kind.FLAG, "", ("run", "start", "mount"), "Keep file data out of the kernel's page cache."
    ),
    Setting(
        "xattrs",
        Kind.FLAG,
        "",
        ("run", "start", "mount"),
        "Extended attributes; the kernel asks for one before each write.",
        default=True,
    ),
    Setting(
        "awake",
        Kind.FLAG,
        "",
        ("run", "start", "mount"),
        "Keep a virtual machine's processors from halting while programs call.",
        default=True,
    ),
    Setting(
        "write_through",
        Kind.FLAG,
        "",
        ("run", "start", "mount"),
        "Each write waits until the daemons have the data.",
    ),
    Setting("placement", Kind.TEXT, "", ("run", "start", "mount"), "Where the data of large files made here go."),
    Setting("max_inodes", Kind.INTEGER, "", ("run", "start", "mount"), "Files the kernel may remember at once."),
    Setting(
        "attr_timeout",
        Kind.SECONDS,
        "",
        ("run", "start", "mount"),
        "Let the kernel reuse sizes and times so long.",
    ),
    Setting(
        "request_timeout",
        Kind.SECONDS,
        "",
        ("run", "start", "mount", *_STAGING),
        "Calls fail when a daemon is silent so long.",
    ),
    Setting("foreground", Kind.FLAG, "f", ("mount",), "Serve the mount in this process."),
    Setting(
        "log",
        Kind.PATH,
        "",
        ("run", "start", "mount", *_STAGING),
        "File for what the background processes have to say.",
    ),
    Setting("grace", Kind.SECONDS, "", ("run",), "Time for COMMAND between a signal and SIGKILL."),
    Setting("lazy", Kind.FLAG, "l", ("umount",), "Detach a busy mount now, end it when its files are closed."),
    Setting(
        "force",
        Kind.FLAG,
        "",
        ("umount", *_PACKING),
        "Detach a busy mount and end its client; replace what is there.",
    ),
    Setting("purge", Kind.FLAG, "", ("stop",), "Remove the data of this machine's daemons, too."),
    Setting("repair", Kind.FLAG, "", ("fsck",), "Mend what can be mended without losing anything."),
    Setting("movers", Kind.INTEGER, "", (*_STAGING, *_PACKING), "Processes that move files, on each node."),
    Setting("checksum", Kind.FLAG, "c", _STAGING, "Compare contents, whatever sizes and times say."),
    Setting(
        "verify",
        Kind.FLAG,
        "",
        (*_STAGING, "unpack"),
        "Change nothing: compare all, contents too, and say what differs.",
    ),
    Setting("split", Kind.INTEGER, "", ("pack",), "Cut files larger than this in parts, for all nodes; 0: never."),
    Setting("depth", Kind.INTEGER, "d", ("du",), "Show directories down to so many levels below PATH."),
    Setting("histogram", Kind.FLAG, "", ("du",), "Show how many files are of which size and age, too."),
    Setting("wait", Kind.SECONDS, "w", ("mount", "status"), "Wait so long for all daemons to be there."),
    Setting(
        "json",
        Kind.FLAG,
        "",
        ("start", "stop", "status", "fsck", "config", *_STAGING, *_PACKING, "du"),
        "Print JSON, for programs.",
    ),
)
VERBS: Final = tuple(sorted({verb for setting in SETTINGS for verb in setting.verbs}))


def parse_size(text: str) -> int:
    """Bytes that *text* names. Raises ValueError when it is no size.

    >>> parse_size("200G"), parse_size("1.5MiB"), parse_size("4096")
    (214748364800, 1572864, 4096)
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size such as 200G")
    return int(float(found[1]) * 1024 ** "_kmgtp".index(found[2].lower() or "_"))


def merges(environ: Mapping[str, str]) -> bool:
    """Whether requests that wait for one daemon leave, are executed and are answered together."""
    return environ.get(MERGE_VARIABLE) != "0"


def does_direct_io(environ: Mapping[str, str]) -> bool:
    """Whether daemons move large pieces of chunks past the page cache."""
    return environ.get(DIRECT_IO_VARIABLE) != "0"


def keeps_log(environ: Mapping[str, str]) -> bool:
    """Whether what a daemon commits is in RocksDB's write-ahead log."""
    return environ.get(LOG_VARIABLE) != "0"


def settings_of(verb: str) -> list[Setting]:
    """The settings that *verb* takes, in the order of the table."""
    return [setting for setting in SETTINGS if verb in setting.verbs]


class Configuration(NamedTuple):
    """A checked file: keys for all verbs, and per verb."""

    path: Path
    common: dict[str, Any]
    tables: dict[str, dict[str, Any]]

    def values_for(self, verb: str) -> dict[str, Any]:
        """What the file says to *verb*; its own table comes before the common keys."""
        keys = {setting.key for setting in settings_of(verb)}
        common = {key: value for key, value in self.common.items() if key in keys}
        return common | self.tables.get(verb, {})


class Effective(NamedTuple):
    """The value a setting has without any option on the command line, and where it comes from."""

    key: str
    value: Any
    source: str


def load(path: Path) -> Configuration:
    """Read and check the file at *path*. Raises GkfsError (USAGE): one line with file, key and what is wrong."""
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIGURATION_MAX_BYTES + 1)
        if len(data) > CONFIGURATION_MAX_BYTES:
            raise _error(path, f"longer than {CONFIGURATION_MAX_BYTES} bytes")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise _error(path, f"not UTF-8 text at byte {error.start}") from None
    except RecursionError:
        raise _error(path, "not TOML that can be read: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and of numbers with thousands of digits
        raise _error(path, f"not TOML: {error}") from None
    return check(document, path)


def check(document: Mapping[str, Any], path: Path) -> Configuration:
    """The parsed *document* as a Configuration; *path* is for messages. Raises GkfsError (USAGE)."""
    common: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        if key in VERBS and isinstance(value, dict):
            tables[key] = {name: _checked(path, key, name, inner) for name, inner in value.items()}
        elif key in VERBS:
            raise _error(path, f"{key} is the name of a table, write [{key}]")
        else:
            common[key] = _checked(path, "", key, value)
    return Configuration(path, common, tables)


def effective(configuration: Configuration | None, environ: Mapping[str, str]) -> list[Effective]:
    """What is set outside of the command line: the environment's values, and the file's where they count."""
    result = []
    for setting in SETTINGS:
        if value := environ.get(setting.variable):
            result.append(Effective(setting.key, value, setting.variable))
            continue
        if configuration is None:
            continue
        if setting.key in configuration.common:
            result.append(Effective(setting.key, configuration.common[setting.key], str(configuration.path)))
        for verb, table in configuration.tables.items():
            if setting.key in table:
                result.append(Effective(setting.key, table[setting.key], f"{configuration.path} [{verb}]"))
    return result


def _checked(path: Path, verb: str, key: str, value: Any) -> Any:
    settings = {setting.key: setting for setting in SETTINGS if not verb or verb in setting.verbs}
    where = f" in [{verb}]" if verb else ""
    if key not in settings:
        raise _error(path, f"unknown key '{key}'{where}{_nearest(key, [*settings, *([] if verb else VERBS)])}")
    kind = settings[key].kind
    # bool is an int to Python, not to a person.
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind is not Kind.FLAG):
        raise _error(path, f"{key}{where} is {_shown(value)}, expected {kind.value}")
    if isinstance(value, (int, float)) and not -_NUMBER_END < value < _NUMBER_END:  # what is no number, too
        raise _error(path, f"{key}{where} is {_shown(value)}, expected {kind.value}, and not so many")
    if isinstance(value, str) and (not value or "\0" in value):
        raise _error(path, f"{key}{where} is {_shown(value)}, expected {kind.value} that is not empty")
    if kind is Kind.SIZE and isinstance(value, str) and _SIZE.fullmatch(value) is None:
        raise _error(path, f"{key}{where} is {_shown(value)}, expected {kind.value}")
    return value


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.3)
    return f", did you mean '{close[0]}'?" if close else f", known are {', '.join(sorted(known))}"


def _shown(value: Any) -> str:
    try:
        text = repr(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python's own limit
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _error(path: Path, reason: str) -> GkfsError:
    return GkfsError(f"configuration file {path}: {reason}", ExitStatus.USAGE)
