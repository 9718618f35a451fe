"""Label Studio is installed once, and a failed install says what to do.

Called by: pytest. The install itself is proved by tests/services, which start what it made.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_label_studio_venv.py
"""

import pytest

from groundcrew.label_studio import LABEL_STUDIO_VERSION
from groundcrew.label_studio.venv import InstallError, install_label_studio


def test_a_finished_install_is_used_in_silence(tmp_path):
    (tmp_path / f".label-studio-{LABEL_STUDIO_VERSION}-installed").touch()
    said = []

    program = install_label_studio(tmp_path, say=said.append)

    assert program == tmp_path / "bin" / "label-studio"
    assert said == []


def test_a_failed_install_leaves_no_marker_and_names_the_remedy(tmp_path):
    in_the_way = tmp_path / "venv"
    in_the_way.write_text("a file where the folder should be")

    with pytest.raises(InstallError, match="run the same command again"):
        install_label_studio(in_the_way, say=lambda line: None)

    assert in_the_way.is_file()
