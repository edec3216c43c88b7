"""Feed damaged templates, data, saved prompts and study files to what reads them, guided by the code that they reach.

    python experiments/reliability/fuzz.py [SECONDS [TARGET]]

Each input has to be read, or be refused by an error whose message is written for the user; any other exception, a hang
of ten seconds and two gigabytes of memory are a crash. Atheris (libFuzzer) makes the inputs; one that crashes is kept.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SECONDS = 300
TARGETS = ("template", "data", "prompt", "study")
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz")
FILES = ("mpt.json", "adapter_config.json", "adapter_model.safetensors")
SEEDS: dict[str, list[bytes]] = {
    "template": [b"{text} is {{not}} {target}", b"a {b} c", "é {x}\n".encode()],
    "data": [
        b'\0{"text": "a", "target": "b"}\n{"text": "c", "target": null}\n',
        b'\x01text,target\n"a, b",c\n"d\ne",f\n',
        b"\x02text\ttarget\na\tb\n",
        b"\x03PAR1",
        b"\x04\x1f\x8b\x08",
    ],
    "study": [
        b"question: Why?\ncommon: [trainer.max_steps=4]\nsources:\n  kin: {overrides: ['tasks=[sum,mt]'], seeds: 2}\n"
        b"targets: [dlg]\nvary: {few_shot.k: [4, 16]}\ndraws: 6\nmethods:\n  MPT: {source: kin, grid: [[a=1], [a=2]]}\n"
        b"  plain: {overrides: [prompt=plain]}\ncompare: [[MPT, plain]]\n"
        b"tune: {draws: 2, rates: [0.5, 1]}\nsuccess: 0.9\n"
    ],
}


def reader_of(target: str, place: Path) -> Callable[[bytes], object]:
    """What reads the inputs of a target.

    Args:
        target: One of :data:`TARGETS`.
        place: A folder for the files; for prompts, ``prompt`` in it is a saved one.
    """
    from mpt.artifact.load import load_prompt
    from mpt.config import RowsConfig
    from mpt.study.read import load_study
    from mpt.tasks.files import read_file
    from mpt.tasks.template import Template

    whole = {name: (place / "prompt" / name).read_bytes() for name in FILES} if target == "prompt" else {}

    def template(data: bytes) -> object:
        made = Template(data.decode("utf-8", "replace"))
        return made.fill(dict.fromkeys(made.columns, "x"))

    def rows(data: bytes) -> object:
        path = place / f"rows{ENDINGS[data[0] % len(ENDINGS)] if data else ENDINGS[0]}"
        path.write_bytes(data[1:])
        return list(read_file(path, RowsConfig()))

    def prompt(data: bytes) -> object:
        name = FILES[data[0] % len(FILES)] if data else FILES[0]
        for other, content in whole.items():
            (place / "prompt" / other).write_bytes(data[1:] if other == name else content)
        return load_prompt(place / "prompt")

    def study(data: bytes) -> object:
        (place / "study.yaml").write_bytes(data)
        return load_study(place / "study.yaml")

    return {"template": template, "data": rows, "prompt": prompt, "study": study}[target]


def fuzz(target: str, place: Path) -> None:
    """Fuzz a target in this process; Atheris reads its options from the command line and never returns."""
    import atheris

    with atheris.instrument_imports(include=["mpt"]):
        from mpt.command import is_known

        read = reader_of(target, place)
    counts = {"read": 0, "refused": 0}

    def once(data: bytes) -> None:
        try:
            read(data)
            counts["read"] += 1
        except Exception as error:
            if not is_known(error):
                raise
            counts["refused"] += 1
        if sum(counts.values()) % 200 == 0:
            (place / "counts.json").write_text(json.dumps(counts))

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


def main() -> int:
    """Fuzz each target for its share of the time, and print the table; 1 where one crashed."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    crashes, kept = 0, Path("runs/fuzz").absolute()
    kept.mkdir(parents=True, exist_ok=True)
    print("| input | tried | read | refused in words | crashes |\n|---|---|---|---|---|")
    targets = [each for each in TARGETS if each in sys.argv[2:]] or TARGETS
    for target in targets:
        place = Path(tempfile.mkdtemp(prefix="mpt-fuzz-"))
        try:
            counts, code, said = _fuzz_in_child(target, place, kept, seconds // len(targets))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        crashes += code != 0
        print(
            f"| {target} | {sum(counts.values()):,} | {counts['read']:,} | {counts['refused']:,} | {int(code != 0)} |"
        )
        if code != 0:
            print(said[-3000:], file=sys.stderr)
    return int(crashes > 0)


def _fuzz_in_child(target: str, place: Path, kept: Path, seconds: int) -> tuple[dict[str, int], int, str]:
    corpus = place / "corpus"
    corpus.mkdir()
    seeds = SEEDS.get(target, [])
    if target == "prompt":
        _save_prompt(place)
        seeds = [bytes([number]) + (place / "prompt" / name).read_bytes() for number, name in enumerate(FILES)]
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    command = [sys.executable, "-W", "ignore", __file__, "--target", target, str(place)]
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={kept}/{target}-"]
    done = subprocess.run(
        [*command, *options, str(corpus)], capture_output=True, text=True, errors="replace", env=os.environ
    )
    found = place / "counts.json"
    counts = json.loads(found.read_text()) if found.exists() else {"read": 0, "refused": 0}
    return counts, done.returncode, re.sub(r"^(#\d+|INFO).*\n", "", done.stderr, flags=re.MULTILINE)


def _save_prompt(place: Path) -> None:
    """Train a prompt for one step, for its files."""
    words = [
        "task=source", "+tasks=[sum,mt]", "trainer=cpu", "logger=csv", "trainer.max_steps=1", "trainer.batch_size=2",
        "evaluation.test_rows=1", "evaluation.validation_rows=1", "evaluation.before=false", "evaluation.oracle=false",
        "prompt.num_virtual_tokens=2", f"hydra.run.dir={place}/run",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "mpt", *words], check=True, capture_output=True)
    shutil.copytree(place / "run" / "prompt", place / "prompt")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        chosen, where = sys.argv[2], Path(sys.argv[3])
        del sys.argv[1:4]
        fuzz(chosen, where)
    sys.exit(main())
