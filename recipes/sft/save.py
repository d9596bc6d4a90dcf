"""Writes the model of a run and its tokenizer as `from_pretrained` loads them; of a run with adapters, the adapters.

launcher export runs/ID
python recipes/sft/save.py runs/ID FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file
from task import build_model, load_tokenizer  # type: ignore[import-not-found]  # the file beside this one


def main(run: Path, folder: Path) -> None:
    weights = run / "model.safetensors"
    if not weights.exists():
        sys.exit(f"save.py: there is no {weights}. Write it with: launcher export {run}")
    args = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["task"]["args"]
    model = build_model(args["model"], args.get("dtype", "float32"), args.get("lora"))
    model.load_state_dict(load_file(weights))
    model.save_pretrained(folder)
    load_tokenizer(args["model"], args.get("chat_template")).save_pretrained(folder)
    print(f"{folder}: the model after training, and its tokenizer")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python recipes/sft/save.py RUN FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
