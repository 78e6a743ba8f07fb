"""The command line: finds a command, runs it, turns an error into two lines and an exit code.

Commands are imported only when called, so that `unlatch open` does not pay for the gate's imports.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from unlatch import __version__
from unlatch.errors import UnlatchError

SECTIONS: dict[str, dict[str, str]] = {
    "secrets": {
        "seal": "Seal keys and tokens into one file that opens only under a policy.",
        "open": "Open a sealed file and write one secret out.",
        "exec": "Open a sealed file for one program, which gets its secrets.",
        "inspect": "Say in words when and by whom a sealed file opens.",
        "recovery": "Make the offline key that opens files when gates are gone.",
    },
    "host": {
        "serve": "Start locked, ask, and serve TLS once approved.",
        "check": "Check a configuration and the programs, without asking anyone.",
        "status": "Say whether the proxy is locked, asking or serving.",
        "unlock": "Ask again, by hand, after a denial or relock.",
        "relock": "Wipe every secret and close the door.",
        "reload": "Take over new certificates, routes and upstreams.",
        "csr": "Get a certificate request for a sealed key.",
        "doctor": "Look for what is wrong or weak on this host, and for a key in memory.",
        "hsm": "Keys in PKCS#11 tokens: list, check, make, request certificates.",
        "tpm": "Keys and PCR policies of this machine's TPM.",
        "host": "The key by which a gate knows this machine.",
    },
    "operator": {
        "pending": "List the requests that wait for you.",
        "show": "Show one request.",
        "approve": "Approve a request with your SSH key.",
        "deny": "Deny a request.",
        "audit": "Verify a gate's audit log with public keys alone.",
    },
    "gate": {
        "gate": "Run and manage an approving Tang server.",
    },
    "other": {
        "clevis": "Drop-in for clevis encrypt and clevis decrypt.",
        "demo": "Show the whole product on this machine.",
        "completion": "Print the completion script for bash, zsh or fish.",
    },
}

SUMMARIES = {name: text for commands in SECTIONS.values() for name, text in commands.items()}


class LazyGroup(click.Group):
    """Imports `unlatch.tools.NAME` only when NAME is called; lists names from a table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of the table."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in SUMMARIES:
            return None
        command = importlib.import_module(f"unlatch.tools.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Group the commands under the table's headings."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "UNLATCH"}
)
@click.version_option(__version__, message="unlatch %(version)s")
def unlatch() -> None:
    """A TLS proxy whose keys open only when a network and a person let them."""


def complain(message: str, hint: str | None) -> None:
    """Write the two lines that every failure ends with."""
    sys.stdout.flush()
    click.echo(f"unlatch: error: {message}", err=True)
    if hint:
        click.echo(f"unlatch: hint: {hint}", err=True)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    try:
        result = unlatch.main(
            args=None if arguments is None else list(arguments), prog_name="unlatch", standalone_mode=False
        )
    except UnlatchError as error:
        complain(str(error), error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "unlatch"
        complain(error.format_message(), f"{path} --help")
        return 2
    except click.ClickException as error:
        complain(error.format_message(), None)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return 130
    except BrokenPipeError:
        # The reader went away (`unlatch … | head`): no traceback, and none from Python's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
