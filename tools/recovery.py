"""unlatch recovery: the offline key that opens files when gates are gone."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="recovery")
def command() -> None:
    """Make and use the offline key that opens files without any gate or person."""


@command.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the private half goes (0600)."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def init(out: Path, force: bool) -> None:
    """Make a recovery key: FILE is private and belongs offline, FILE.pub is for sealing.

    Example: unlatch recovery init --out recovery.jwk
    """
    from unlatch.bootstrap import files, jose
    from unlatch.memguard._native import exchange_key_generate

    public_file = out.with_name(f"{out.name}.pub")
    for path in (out, public_file):
        files.refuse_existing(path, force=force)
    private, public = exchange_key_generate("P-521")
    key = jose.read_json(public)
    assert isinstance(key, dict)
    files.write_secret(out, private, force=force)
    files.write(public_file, public + b"\n", force=force, mode=files.PUBLIC)
    click.echo(public.decode())
    click.echo(
        f"""recovery key {jose.thumbprint(key)}
  {out}  private: move it to paper or a stick in a safe, then delete it here
  {public_file}  public: unlatch seal … --recovery {public_file}
Whoever holds the private half opens every file sealed with it, past every gate and person:
  unlatch open FILE --recovery-key {out}""",
        err=True,
    )
