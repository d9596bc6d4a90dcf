"""Small things that stand in for what the recipes of the real world load: text, a tokenizer."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "runs",
    "sees",
    "big",
    "small",
    "house",
    "tree",
    "and",
    "or",
    "then",
    "of",
    "with",
    "under",
    "over",
    "it",
    "was",
    "is",
]


def text(lines: int, seed: int = 0) -> str:
    """Lines of words, which a model of a few thousand parameters can learn something of."""
    return "".join(
        " ".join(WORDS[(seed + line * line + place * (line % 3 + 1)) % len(WORDS)] for place in range(8)) + ".\n"
        for line in range(lines)
    )


def tokenizer(folder: Path, chat_template: str | None = None) -> Path:
    """A byte-level tokenizer of 320 tokens, saved as `from_pretrained` loads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text(200)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=special[0], chat_template=chat_template)
    fast.save_pretrained(folder)
    return folder
