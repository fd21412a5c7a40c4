"""Last line of the output of an engine or worker, as errors name it."""

from pathlib import Path

import pytest

from wantui.engine.process_output import read_last_line

TRACEBACK = 'Traceback (most recent call last):\n  File "/a/b.py", line 1, in run\n    work()\n'


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("started\nstopped\n", "stopped"),
        (TRACEBACK + "ValueError: bad\n", "ValueError: bad"),
        (
            'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nOSError: gone\n',
            "OSError: gone",
        ),
        (TRACEBACK + "RuntimeError: compiler:\n    %0 = tt.load\n    ^\n", "RuntimeError: compiler:"),
        (TRACEBACK + "KeyError: 1\n\nDuring handling:\n\n" + TRACEBACK + "OSError: 2\n", "OSError: 2"),
        (
            TRACEBACK + "RuntimeError: CUDA error: device lost\nCUDA kernel errors might be reported later.\n"
            "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable.\n",
            "RuntimeError: CUDA error: device lost",
        ),
        (TRACEBACK + "ValueError: handled\nno driver found\n", "no driver found"),
        (TRACEBACK, "work()"),
    ],
    ids=["none", "plain", "no source", "indented message", "chained", "advice", "handled", "cut off"],
)
def test_last_line_names_the_error_of_a_traceback_at_the_end(output: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.out"
    path.write_text(output)
    assert read_last_line(path).strip() == line
