"""A search for secrets in every byte of a folder."""

import base64
from pathlib import Path
from urllib.parse import quote


def forms_of(secret: str, user: str = "") -> set[bytes]:
    """Return a secret as it is, percent-encoded, and as a header of a login has it."""
    forms = {secret.encode(), quote(secret).encode(), quote(secret, safe="").encode()}
    if user:
        forms.add(base64.b64encode(f"{user}:{secret}".encode()))
    return forms


def files_with(secret: str, folder: Path, user: str = "") -> list[str]:
    """Return the files in a folder that hold a secret, in their content or their name."""
    forms = forms_of(secret, user)
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if not file.is_symlink()
        and any(
            form in file.name.encode() or (file.is_file() and form in file.read_bytes())
            for form in forms
        )
    )
