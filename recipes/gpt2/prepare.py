"""Packs text into files of tokens for task.py: train.bin and val.bin, documents one after the other, and meta.json.

    python recipes/gpt2/prepare.py --dataset HuggingFaceFW/fineweb-edu --config sample-10BT
    python recipes/gpt2/prepare.py --folder /data/text --tokenizer /models/mine --out /data/tokens

Text is read as a stream. The folder appears when all of it is there; what was interrupted begins again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

KINDS = (".txt", ".md", ".parquet")
PIECE = 2**16  # characters; a longer text file counts as several documents, so that it is never in memory as a whole
TOGETHER = 256  # documents that are handed to the tokenizer at once, which takes them on all cores


def main() -> None:
    """Read the command line and do what it says."""
    options = command_line()
    try:
        tokenizer = load_tokenizer(options.tokenizer)
        documents = of_dataset(options) if options.dataset else of_folder(options.folder, options.column)
        prepare(documents, tokenizer, options.tokenizer, options.out, options.validation)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"prepare.py: {error}")


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pack text into files of tokens for recipes/gpt2.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, help=f"a folder, read with those in it, of files {', '.join(KINDS)}")
    source.add_argument("--dataset", help="a data set of the Hugging Face hub, or of a folder, as `datasets` takes it")
    parser.add_argument("--config", help="the configuration of the data set, where it has several")
    parser.add_argument("--split", default="train", help="the split of the data set")
    parser.add_argument("--column", default="text", help="the column with the text, of a data set or a parquet file")
    parser.add_argument("--tokenizer", default="openai-community/gpt2", help="name on the hub, or a folder")
    parser.add_argument("--validation", type=fraction, default=0.0005, help="fraction of the documents to validate on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("data"), help="the folder to write")
    return parser.parse_args()


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction between 0 and 1, such as 0.0005")
    return value


def prepare(documents: Iterable[str], tokenizer: Any, name: str, out: Path, validation: float) -> None:
    """Write the tokens of documents, all or nothing.

    Args:
        documents: the text.
        tokenizer: of transformers.
        name: what it is called, for meta.json.
        out: the folder to write; it must not exist, or be empty.
        validation: fraction of the documents that are kept for validation.

    Raises:
        ValueError: the folder holds something, or the documents leave nothing to train or to validate on.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there already: delete it, or choose another --out")
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError(f"the tokenizer {name} has no token for the end of a text")
    out.parent.mkdir(parents=True, exist_ok=True)
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{out.name}.unfinished-", dir=out.parent))
    try:
        tokens = write_tokens(documents, tokenizer, end, dtype, unfinished, validation)
        for part, cure in (("train", "smaller"), ("val", "larger")):
            if not tokens[part]:
                raise ValueError(f"no document fell to {part}: give more text, or a {cure} --validation")
        meta = {"tokenizer": name, "vocabulary": vocabulary, "end": end, "dtype": dtype.name, "tokens": tokens}
        (unfinished / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{out}: {tokens['train']:,} tokens to train on, {tokens['val']:,} to validate on")


def write_tokens(
    documents: Iterable[str], tokenizer: Any, end: int, dtype: np.dtype[Any], folder: Path, validation: float
) -> dict[str, int]:
    """Write train.bin and val.bin; how many tokens each has."""
    tokens = {"train": 0, "val": 0}
    columns = (SpinnerColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with ExitStack() as opened, Progress(*columns, console=Console(stderr=True)) as progress:
        files = {part: opened.enter_context((folder / f"{part}.bin").open("wb")) for part in tokens}
        shown = progress.add_task("", total=None, said="")
        kept = (text for text in documents if text)
        for together in iter(lambda: list(itertools.islice(kept, TOGETHER)), []):
            for text, ids in zip(together, encoded(together, tokenizer, end), strict=True):
                part = "val" if zlib.crc32(text.encode("utf-8", "replace")) < validation * 2**32 else "train"
                files[part].write(np.array([*ids, end], dtype=dtype).tobytes())
                tokens[part] += len(ids) + 1
            progress.update(shown, advance=len(together), said=f"{tokens['train'] + tokens['val']:,} tokens")
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return tokens


def encoded(texts: list[str], tokenizer: Any, end: int) -> Iterator[list[int]]:
    """The tokens of texts, in which the names of special tokens are text like any other.

    A model such as Unigram finds the name of the end among its pieces all the same: that is left out, or it would cut.
    """
    for ids in tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
        yield [each for each in ids if each != end] if end in ids else ids


def load_tokenizer(name: str) -> Any:
    try:
        from transformers import AutoTokenizer, logging
    except ImportError as missing:
        raise ImportError(f"{missing}. pip install transformers") from missing
    logging.set_verbosity_error()  # or it would warn of every document that is longer than a model's context
    return AutoTokenizer.from_pretrained(name)


def of_folder(folder: Path, column: str) -> Iterator[str]:
    """The text files of a folder, and the rows of its parquet files, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS and not path.is_dir())
    if not paths:
        raise ValueError(f"there is no file {', '.join(KINDS)} in {folder}")
    for path in paths:
        yield from of_parquet(path, column) if path.suffix.lower() == ".parquet" else of_text(path)


def of_text(path: Path) -> Iterator[str]:
    """The pieces of a text file; each ends at the end of a line, where it has lines."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.read(PIECE):
            yield piece + file.readline(PIECE)


def of_parquet(path: Path, column: str) -> Iterator[str]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as missing:
        raise ImportError(f"{missing}. pip install pyarrow") from missing
    with ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise ValueError(f"{path} has no column {column}: --column is one of {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=TOGETHER, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield text_of(value, str(path), column)


def of_dataset(options: argparse.Namespace) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as missing:
        raise ImportError(f"{missing}. pip install datasets") from missing
    rows = load_dataset(options.dataset, options.config, split=options.split, streaming=True)
    for row in rows:
        if options.column not in row:
            raise ValueError(f"{options.dataset} has no column {options.column}: --column is one of {', '.join(row)}")
        yield text_of(row[options.column], options.dataset, options.column)


def text_of(value: Any, source: str, column: str) -> str:
    """A row's text; empty where the row has none."""
    if not isinstance(value, str | None):
        kind = type(value).__name__
        raise ValueError(f"{source}: the column {column} has rows that are no text, but {kind}: give another --column")
    return value or ""


if __name__ == "__main__":
    main()
