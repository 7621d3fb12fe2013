"""flow doctor: what it says of machines that are described in files, and of the one that it runs on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fields import rows

from flow.cli.main import main
from flow.doctor import benchmark, devices, examination, load, machine, packages, ranges, storage
from flow.doctor.findings import Finding, guarded
from flow.doctor.machine import Limits, Processor

ROOT = Path(__file__).parents[2]
ZEN4 = Processor("AMD EPYC", "AuthenticAMD", 25, 17, frozenset(["avx2", "fma", "bmi2", "avx512_bf16"]))


def write(root: Path, **files: str) -> Path:
    """Files below a folder, `__` in a name for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_processor_is_read(tmp_path: Path) -> None:
    lines = ("processor\t: 0", "vendor_id\t: AuthenticAMD", "cpu family\t: 25", "model\t\t: 17", "model name\t: AMD EPYC 9R14")
    text = "\n".join((*lines, "flags\t\t: fpu avx2", "", ""))
    own = machine.processor(write(tmp_path, proc__cpuinfo=text + text.replace("17", "1")))
    assert own == Processor("AMD EPYC 9R14", "AuthenticAMD", 25, 17, frozenset(["fpu", "avx2"]))
    assert own.title == "AMD EPYC 9R14 (Zen 4)"
    nothing = machine.processor(tmp_path / "nowhere")
    assert nothing.family == 0 and nothing.name and nothing.title == nothing.name


def sets(forced: str = "", **states: str) -> list[Finding]:
    flags = frozenset(["avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
    return list(machine.instruction_sets(states, flags, forced))


def test_instruction_sets() -> None:
    known_sets = sets(baseline="available", avx2="available", avx512="in use", avx512bf16="not here")
    assert known_sets[0].text == "avx512, of baseline, avx2, avx512" and known_sets[0].verdict == "ok"
    assert known_sets[1].text == "not possible: the processor has no avx512_bf16" and known_sets[1].verdict == "absent"
    (forced, _) = sets("avx2", avx2="in use", avx512="available", avx512bf16="not here")
    assert forced.verdict == "warning" and "avx512 is faster" in forced.text and "unset FLOW_CPU_ISA" in forced.remedy
    old_build = sets(avx2="in use", avx512="not here")[1]
    assert old_build.verdict == "warning" and "this build has not" in old_build.text and "newer compiler" in old_build.remedy
    assert sets() == []


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        (Limits(8, 8, None, "", 8), ""),
        (Limits(8, 8, 2.0, "", 8), "set OMP_NUM_THREADS=2, or give --threads 2"),
        (Limits(8, 4, None, "", 8), "set OMP_NUM_THREADS=4"),
        (Limits(8, 8, None, "2", 2), "6 of the cores would stay idle: raise or unset OMP_NUM_THREADS"),
        (Limits(8, 8, None, "", 4), "4 of the cores would stay idle: set OMP_NUM_THREADS=8"),
        (Limits(8, 8, None, "many", 8), "set OMP_NUM_THREADS to a number"),
        (Limits(8, 8, 0.5, "", 1), "threads are slowed down when the time is used up"),
        (Limits(8, 2, 4.0, "2", 2), ""),
    ],
)
def test_threads_that_disagree_are_told(limits: Limits, remedy: str) -> None:
    finding = machine.threads(limits)
    assert (finding.verdict == "warning") == bool(remedy) and remedy in finding.remedy
    assert f"{limits.affinity} of {limits.machine} cores" in finding.text


def test_the_quota_is_that_of_the_tightest_group(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__b__x="",
        **{"sys__fs__cgroup__a__b__cpu.max": "max 100000\n"},
    )
    assert machine.quota(root) is None
    write(root, **{"sys__fs__cgroup__a__cpu.max": "250000 100000\n", "sys__fs__cgroup__cpu.max": "400000 100000\n"})
    assert machine.quota(root) == 2.5
    write(root, **{"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "150000\n", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n"})
    assert machine.quota(root) == 1.5


def test_what_ran_meanwhile(tmp_path: Path) -> None:
    write(tmp_path, proc__self__cgroup="0::/\n", proc__stat="cpu  1000 0 500 9000 0 0 0 100 0 0\ncpu0 1 1\n")
    write(tmp_path, **{"sys__fs__cgroup__cpu.stat": "usage_usec 1\nthrottled_usec 2000000\n"})
    before = load.now(tmp_path)
    assert (before.busy, before.stolen, before.throttled) == (1500 / load.TICKS, 100 / load.TICKS, 2.0)
    after = before._replace(seconds=before.seconds + 10, own=before.own + 12, busy=before.busy + 18, stolen=before.stolen + 2)
    meanwhile = load.between(before, after, 2)
    assert meanwhile == pytest.approx((0.6, 0.1, 0.0))
    (others, stolen) = load.reasons(meanwhile)
    assert "other programs took 0.6 cores" in others[0] and "kept 10 % of the time" in stolen[0]
    assert load.reasons(load.Meanwhile(0.1, 0.01, 0.0)) == []
    assert "held back for 1.5 s" in load.reasons(load.Meanwhile(0, 0, 1.5))[0][0]


# --- packages, folders, devices ---------------------------------------------------------------------------------------


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["torch>=2.11", "pandas>=2.2; extra == 'frames'", 'nothing-of-this-name>=1; extra == "frames"']
    requires += ["triton>=3.6; platform_system == 'Plan9' and extra == 'gpu'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    assert packages.packages_of("frames") == {"pandas": "2.2", "nothing-of-this-name": "1"}
    assert packages.packages_of("gpu") == {} and packages.packages_of("serve") is None
    by_name = {finding.name: finding for finding in packages.check()}
    assert by_name["torch"].verdict == by_name["flow_kernels"].verdict == "ok"
    missing = by_name["extra frames"]
    assert missing.verdict == "absent" and "nothing-of-this-name" in missing.text
    assert missing.remedy == "pip install 'flow-fl[frames]'"
    versions = {"pandas": "2.1.9", "nothing-of-this-name": "1.0"}
    monkeypatch.setattr(packages, "_version", versions.get)
    old = {finding.name: finding for finding in packages.check()}["extra frames"]
    assert old.verdict == "warning" and old.text == "pandas 2.1.9 is older than 2.2" and "--upgrade" in old.remedy


def test_a_needed_package_that_is_broken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "NEEDED", ("torch", "no_such_module_here"))
    broken = [finding for finding in packages.check() if finding.verdict == "broken"]
    assert [finding.name for finding in broken] == ["no_such_module_here"] and "pip install" in broken[0].remedy
    assert not examination.is_well(broken) and "no_such_module_here broken" in examination.conclusion(broken)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    write(tmp_path, cache__one__index="x" * 300, cache__one__tokens="x" * 700)
    cache, runs = storage.check()
    assert (cache.verdict, cache.facts["entries"], cache.facts["used_bytes"], cache.facts["writable"]) == ("ok", 1, 1000, True)
    assert "1 entries, 1.00 kB" in cache.text and "not there yet" in runs.text
    monkeypatch.setattr(storage, "MOST_FILES", 1)
    assert "more than" in next(storage.check()).text
    write(tmp_path, file="")
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "file" / "cache"))
    broken = next(storage.check())
    assert broken.verdict == "broken" and "FLOW_CACHE" in broken.remedy
    monkeypatch.setenv("FLOW_CACHE", "")
    assert next(storage.check()).verdict == "warning"


def test_extensions_say_what_built_them(tmp_path: Path) -> None:
    path = tmp_path / "_C.so"
    path.write_bytes(b"\x7fELF..\0GCC: (Debian 12.2.0-14) 12.2.0\0...")
    assert devices.compiler_of(path) == "GCC: (Debian 12.2.0-14) 12.2.0"
    path.write_bytes(b"\0clang version 18.1.3 (x)\0")
    assert devices.compiler_of(path) == "clang version 18.1.3"
    findings = {finding.name: finding for finding in devices.check_extensions()}
    assert findings["flow_kernels._C"].verdict == "ok" and "available" in findings["flow_kernels._C"].text


def test_a_check_that_fails_ends_nothing() -> None:
    def failing() -> Iterator[Finding]:
        yield Finding("a", "first", "well")
        raise OSError("no\nsuch thing")

    first, second = guarded("a", failing)
    assert first.verdict == "ok" and second.verdict == "warning" and "OSError: no such thing" in second.text


# --- speed ------------------------------------------------------------------------------------------------------------

MEASURES = {"gflop_per_second_1": 100.0, "layer_float32_share_1": 0.8, "copied_gb_per_second_2": 20.0}
KIND = ranges.Kind(
    "AMD EPYC (Zen 4)", "AuthenticAMD", 25, 17, "avx512bf16", 2, "2.13.0+cpu", "2026-11-30", 15,
    {name: ranges.Range(0.9 * value, value, 1.1 * value) for name, value in MEASURES.items()},
)  # fmt: skip
QUIET = load.Meanwhile(0.0, 0.0, 0.0)
SETTING = ranges.Setting(ZEN4, "avx512bf16", 2, 2, "2.13.1+cpu", QUIET)


def told(setting: ranges.Setting = SETTING, **slower: float) -> Finding:
    """The last line, where these measures are so much slower."""
    measures = {name: value * slower.get(name, 1.0) for name, value in MEASURES.items()}
    findings = list(ranges.judged(measures, setting, [KIND]))
    assert len(findings) == len(MEASURES) + 1
    assert [finding.verdict for finding in findings[:-1]] == ["warning" if slower.get(n, 1) < 0.76 else "ok" for n in MEASURES]
    return findings[-1]


def test_a_machine_as_fast_as_its_kind() -> None:
    last = told()
    assert last.verdict == "ok" and last.text.startswith("as fast as AMD EPYC (Zen 4) as measured on 2026-11-30 with 2 threads")
    assert told(layer_float32_share_1=0.8).verdict == "ok"


@pytest.mark.parametrize(
    ("setting", "why", "remedy"),
    [
        (SETTING, "and nothing that can be looked at says why", "quiet machine"),
        (SETTING._replace(instruction_set="avx2"), "the kernels use avx2 and not avx512bf16", "unset FLOW_CPU_ISA"),
        (SETTING._replace(threads=1), "1 thread computes on 2 cores", "unset OMP_NUM_THREADS"),
        (SETTING._replace(threads=4), "4 threads share 2 cores", "set OMP_NUM_THREADS=2"),
        (SETTING._replace(torch="2.11.0"), "torch is 2.11.0 and not 2.13.0+cpu", "that version"),
        (SETTING._replace(meanwhile=load.Meanwhile(1.2, 0, 0)), "other programs took 1.2 cores", "when they have ended"),
        (SETTING._replace(meanwhile=load.Meanwhile(0, 0.2, 0)), "kept 20 % of the time", "processors of its own"),
        (SETTING._replace(meanwhile=load.Meanwhile(0, 0, 2.0)), "held back for 2.0 s", "limit of the container"),
    ],
)
def test_a_slower_machine_says_why(setting: ranges.Setting, why: str, remedy: str) -> None:
    last = told(setting, layer_float32_share_1=0.5)
    assert last.verdict == "warning" and "this machine is slower than AMD EPYC (Zen 4)" in last.text
    assert why in last.text and remedy in last.remedy and last.facts["slow"] == ["layer_float32_share_1"]


def test_memory_and_torch_itself_are_told_apart() -> None:
    assert "its memory is slower" in told(copied_gb_per_second_2=0.5).text
    assert "torch's own product is slower too" in told(gflop_per_second_1=0.5).text


def test_another_kind_has_nothing_to_be_compared_with() -> None:
    other = SETTING._replace(processor=ZEN4._replace(model=1, name="AMD EPYC 7763"))
    *measures, last = ranges.judged(MEASURES, other, [KIND])
    assert last.verdict == "absent" and "nothing is stored for AMD EPYC 7763" in last.text
    assert all(finding.verdict == "ok" and "its kind" not in finding.text for finding in measures)


def test_ranges_are_written_and_read(tmp_path: Path) -> None:
    ranges.write([KIND], tmp_path / "ranges.json")
    assert ranges.stored(tmp_path / "ranges.json") == [KIND]
    for kind in ranges.stored():
        assert kind.measures and all(own.low <= own.median <= own.high for own in kind.measures.values())
        assert {name.rpartition("_")[0] for name in kind.measures} <= set(ranges.WORDS)


def test_the_benchmark_measures_everything_that_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("SIZE", 64),
        ("COPIED", 1 << 16),
        ("ROUNDS", 1),
        ("SHORTEST", 0.001),
        ("VOCABULARY", 50),
        ("HIDDEN", 16),
    ):
        monkeypatch.setattr(benchmark, name, value)
    measures = benchmark.measured(1)
    assert {name.rpartition("_")[0] for name in measures} | {"layer_bfloat16_share"} == set(ranges.WORDS)
    assert all(value > 0 for value in measures.values())


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--no-benchmark"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "packages" and lines[-1].startswith("flow is well; ")
    assert main(["doctor", "--no-benchmark", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["well"] is True and "packages" in err
    columns = {field.removeprefix("findings[].") for _, field, _ in rows("doctor --json") if "[]" in field}
    for finding in document["findings"]:
        assert set(finding) == columns
        assert finding["remedy"] or finding["verdict"] in ("ok", "absent")


def test_something_broken_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor", "--no-benchmark"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("flow is not well: prepared data broken; ")


def started(arguments: list[str], **environment: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "flow", *arguments], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


def test_kernels_that_cannot_be_loaded_end_in_a_sentence_and_the_doctor_says_more(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"FLOW_CPU_ISA": "mmx", "FLOW_CACHE": str(tmp_path)}
    code, out, err = started(["run"], **wrong)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("flow: cannot be loaded (FLOW_CPU_ISA='mmx'") and "`flow doctor`" in err
    code, out, err = started(["doctor"], **wrong)
    assert (
        code == 1 and "unset FLOW_CPU_ISA" in out and out.splitlines()[-1].startswith("flow is not well: flow_kernels broken")
    )
    assert not err
