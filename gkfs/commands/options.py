"""The settings of `gkfs.config` as options of click commands, and the verbs' common frame.

Every verb gets the options that the table names for it, `--config`, and the file's values as click's default_map,
by which click itself keeps the precedence file < environment < command line.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from gkfs import config
from gkfs.commands.launchers import Launcher
from gkfs.config import CONFIG_VARIABLE, Kind, Setting
from gkfs.hostfile import Sync
from gkfs.limits import (
    CAPACITY_LEAST_BYTES,
    DAEMONS_LOCAL_MAX,
    DAEMONS_MAX,
    INODES_LEAST,
    INODES_MAX,
    MOVERS_MAX,
    REPLICAS_MAX,
)

_METAVARS = {
    "listen": "tcp://HOST:PORT",
    "hosts": "HOSTS",
    "serve_on": "HOSTS",
    "mount_on": "HOSTS",
    "interface": "NAME",
    "cores": "LIST",
}

F = TypeVar("F", bound=Callable[..., Any])


class AbsolutePath(click.ParamType[Path]):
    """A path made absolute, symbolic links untouched: background processes have another working directory."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("an empty path", param, ctx)
        return Path(os.path.abspath(value))


class Seconds(click.FloatRange):
    """A finite number of seconds, at least *min*."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return number


class Size(click.ParamType[int]):
    """Bytes, as 4096 or 200G; 0, or at least *least_bytes*."""

    name = "size"

    def __init__(self, least_bytes: int) -> None:
        self._least_bytes = least_bytes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size_bytes = config.parse_size(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        if 0 < size_bytes < self._least_bytes:
            self.fail(f"{value} is less than {self._least_bytes >> 20}M.", param, ctx)
        return size_bytes


def verb(name: str, epilog: str = "", **attributes: dict[str, Any]) -> Callable[[F], click.Command]:
    """Make the decorated function the command *name* with all its settings as options.

    *attributes* change single options, by key: `required`, `default`, `help`, `envvar`.
    """

    def decorate(function: F) -> click.Command:
        function.__doc__ = function.__doc__ or ""
        for setting in reversed(config.settings_of(name)):
            function = _option(setting, name, attributes.get(setting.key, {}))(function)
        function = _config_option(function)
        context: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        context["allow_interspersed_args"] = name != "run"  # what follows COMMAND is COMMAND's
        return click.command(name, epilog=epilog, context_settings=context)(function)

    return decorate


def _option(setting: Setting, verb_name: str, attributes: dict[str, Any]) -> Callable[[F], F]:
    names = [setting.key, setting.option]
    if setting.kind is Kind.FLAG:
        names[1] += "/--no-" + setting.option.removeprefix("--")
    if setting.short:
        names.append(f"-{setting.short}" + ("/ " if setting.kind is Kind.FLAG else ""))
    arguments: dict[str, Any] = {"help": setting.help, "envvar": setting.variable, "show_envvar": True}
    arguments |= _type(setting, verb_name) | attributes
    arguments["show_default"] = bool(arguments.get("default")) and setting.kind is not Kind.FLAG
    return click.option(*names, **arguments)


def _type(setting: Setting, verb_name: str) -> dict[str, Any]:
    match setting.kind:
        case Kind.PATH:
            metavar = {"rootdir": "ROOTDIR", "mountdir": "MOUNTDIR"}.get(setting.key, "FILE")
            return {"type": AbsolutePath(), "metavar": metavar}
        case Kind.TEXT if setting.key == "launcher":
            return {"type": click.Choice(["auto", *(kind.value for kind in Launcher)]), "default": "auto"}
        case Kind.TEXT if setting.key == "placement":
            return {"type": click.Choice(["hashed", "local"]), "default": "hashed"}
        case Kind.TEXT if setting.key == "sync":
            return {"type": click.Choice([kind.value for kind in Sync])}
        case Kind.TEXT:
            return {"metavar": _METAVARS.get(setting.key, "HOST")}
        case Kind.INTEGER if setting.key == "index":
            return {"type": click.IntRange(0, DAEMONS_MAX - 1), "metavar": "I"}
        case Kind.INTEGER if setting.key == "max_inodes":
            return {"type": click.IntRange(INODES_LEAST), "metavar": "N", "default": INODES_MAX}
        case Kind.INTEGER if setting.key == "replicas":
            return {"type": click.IntRange(1, REPLICAS_MAX), "metavar": "N"}
        case Kind.INTEGER if setting.key == "movers":
            return {"type": click.IntRange(1, MOVERS_MAX), "metavar": "N"}
        case Kind.INTEGER:
            most = DAEMONS_MAX if verb_name in ("daemon", "mount") else DAEMONS_LOCAL_MAX
            return {"type": click.IntRange(1, most), "metavar": "DAEMONS"}
        case Kind.SECONDS:
            least_open = setting.key == "request_timeout"
            return {"type": Seconds(0, 86400, min_open=least_open), "metavar": "SECONDS"}
        case Kind.SIZE:
            return {"type": Size(CAPACITY_LEAST_BYTES), "metavar": "SIZE"}
        case Kind.FLAG:
            return {"default": setting.default}


def _config_option(function: F) -> F:
    return click.option(
        "--config",
        type=AbsolutePath(),
        metavar="FILE",
        help="TOML file with values for options.",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        is_eager=True,  # so that the other options find the file's values
        expose_value=False,
        callback=_take_config,
    )(function)


def _take_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    path = config_path(ctx, path)
    if path is None or ctx.resilient_parsing:
        return
    configuration = config.load(path)
    ctx.meta["gkfs.configuration"] = configuration
    ctx.default_map = configuration.values_for(str(ctx.info_name))


def config_path(ctx: click.Context, path: Path | None) -> Path | None:
    """The file to read: after the verb (*path*), else before the verb, else from the environment."""
    before_verb = ctx.obj if isinstance(ctx.obj, Path) else None
    if ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE:
        return path
    return before_verb or path


def mountdir_argument(function: F) -> F:
    """MOUNTDIR as an argument, for those who are used to mount(8)."""
    return click.argument("target", metavar="[MOUNTDIR]", required=False, type=AbsolutePath())(function)


def chosen_mountdir(target: Path | None, mountdir: Path | None) -> Path:
    """The MOUNTDIR given as argument or with -m; the argument beats file and environment."""
    context = click.get_current_context()
    by_option = context.get_parameter_source("mountdir") is ParameterSource.COMMANDLINE
    if target is not None and by_option and target != mountdir:
        raise click.UsageError(f"two MOUNTDIRs: {mountdir} and {target}", context)
    chosen = target or mountdir
    if chosen is None:
        raise click.UsageError("Missing argument 'MOUNTDIR'.", context)
    return chosen


def place_of(error: click.BadParameter) -> str:
    """Where the value that *error* is about was set: the variable, the key of the file, or the option."""
    context, parameter = error.ctx, error.param
    if context is None or parameter is None or parameter.name is None:
        return ""
    source = context.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
        return next((name for name in names if os.environ.get(name)), "")
    configuration = context.meta.get("gkfs.configuration")
    if source is ParameterSource.DEFAULT_MAP and configuration is not None:
        return f"configuration file {configuration.path}: {parameter.name}"
    return ""
