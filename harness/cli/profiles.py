"""``joulebench profiles``: the profiles shipped, and profile files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Typer

from harness.cli import options
from harness.cli.help import Command, Group

app = Typer(cls=Group, no_args_is_help=True, help="List, show and check profiles, and print their JSON schema.")


@app.command("list", cls=Command)
def list_profiles(as_json: options.AsJson = False) -> None:
    """List the profiles shipped with the package, with their held-out errors."""
    from harness.modelling.profile import Profile, shipped_names
    from harness.showing.profiles import print_list

    print_list([Profile.load(name) for name in shipped_names()], as_json)


@app.command("show", cls=Command)
def show(profile: options.ProfileArgument, as_json: options.AsJson = False) -> None:
    """Show what a profile holds: models with their uncertainty, range, origin; as JSON the profile itself."""
    from harness.modelling.profile import Profile
    from harness.showing.profiles import print_profile

    loaded = Profile.load(profile)
    if as_json:
        print(loaded.dump(), end="")
    else:
        print_profile(loaded)


@app.command("validate", cls=Command)
def validate(
    files: Annotated[list[Path], Argument(metavar="FILE...", help="Profile files.")], as_json: options.AsJson = False
) -> None:
    """Check profile files; stop at the first invalid file with exit code 2."""
    from harness.modelling.profile import Profile
    from harness.showing.terminal import print_json

    found = []
    for file in files:
        profile = Profile.load(file)
        found.append({"file": str(file), "schema_version": profile.schema_version, "name": profile.name})
        if not as_json:
            print(f"{file}: valid, schema version {profile.schema_version}, {profile.name}")
    if as_json:
        print_json(found)


@app.command("schema", cls=Command)
def schema() -> None:
    """Print the JSON schema of a profile."""
    from harness.modelling.profile import json_schema
    from harness.showing.terminal import print_json

    print_json(json_schema())
