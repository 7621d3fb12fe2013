"""Tries what wheels have installed. No checkout is needed, and none may be what is imported.

python scripts/try_wheels.py kernels            a layer forward and backward, against torch's own
python scripts/try_wheels.py both               the same, and `flow run` for two rounds
python scripts/try_wheels.py others FOLDER      prints what the wheel of flow-fl there needs beside torch and flow-kernels
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def kernels() -> None:
    import torch

    import flow_kernels
    from flow_kernels import RoutedGRU

    assert "site-packages" in flow_kernels.__file__, flow_kernels.__file__
    assert flow_kernels.backends()["cpu"].startswith("available"), flow_kernels.backends()
    gru, layer, reference = (
        torch.nn.GRU(96, 64, batch_first=True),
        RoutedGRU(96, 64, batch_first=True),
        RoutedGRU(96, 64, batch_first=True, backend="reference"),
    )
    reference.load_state_dict(layer.state_dict())
    gradients = []
    for routed in (layer, reference):
        x = torch.linspace(-1, 1, 16 * 20 * 96).sin().reshape(16, 20, 96).requires_grad_()
        output, h_n = routed(x)
        output.square().sum().backward()
        gradients.append((output.detach(), h_n.detach(), x.grad, *(weight.grad for weight in routed.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1])
    layer.load_state_dict(gru.state_dict())
    torch.testing.assert_close(layer(x, route="global"), gru(x))
    print(
        f"flow_kernels {flow_kernels.__version__}: forward and backward agree with the reference, one expert with torch.nn.GRU"
    )


def rounds() -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        flow = [
            str(Path(sys.executable).with_name("flow")),
            "run",
            "--rounds",
            "2",
            "--max-clients",
            "60",
            "--folder",
            str(folder),
        ]
        subprocess.run(flow, check=True)
        assert (folder / "report.html").stat().st_size > 10_000
    print("flow run: two rounds and their report")


def others(folder: Path) -> None:
    (wheel,) = folder.glob("flow_fl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = re.findall(r"(?m)^Requires-Dist: (.+)$", archive.read(name).decode())
    print("\n".join(line for line in needed if "extra ==" not in line and not re.match(r"(torch|flow-kernels)\b", line)))


if __name__ == "__main__":
    if sys.argv[1] == "others":
        others(Path(sys.argv[2]))
    else:
        kernels()
        if sys.argv[1] == "both":
            rounds()
