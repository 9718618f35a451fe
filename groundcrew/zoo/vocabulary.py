"""The tiny model's own BERT directory: a WordPiece vocabulary and a configuration made from nothing.

Called by train_tiny.py. The directory loads offline with AutoTokenizer and BertModel of transformers.
Must not import mmdet, worker or backend; transformers only when called.
Example: `write_bert(Path("groundcrew/zoo/tiny-shapes/bert"))`.
"""

import string
from pathlib import Path

from groundcrew.zoo.prompts import known_words

SPECIAL_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPARE_WORDS = (
    *("gray", "grey", "violet", "teal", "gold", "silver", "navy", "olive", "beige", "maroon", "magenta"),
    *("rectangle", "pentagon", "hexagon", "octagon", "oval", "ellipse", "crescent", "cube", "cone", "ball", "line"),
    *("spiral", "bolt", "drop", "flower", "key", "flag", "bell", "fish", "bird", "cat", "boat", "truck", "bus", "bike"),
    *("sign", "light", "traffic", "road", "face", "hand", "book", "cup", "chair", "table", "phone", "box", "part"),
    *("a", "the", "an", "of", "and", "with", "on", "in", "small", "large", "big", "little", "dark", "bright", "round"),
    *("left", "right", "top", "bottom", "one", "two", "three", "new", "old", "item", "label", "class", "other"),
)
"""Whole words that training never sees: a fine-tune can give them a meaning without new tokens."""
PIECES = ("er", "ing", "ed", "le", "al", "en", "on", "or", "ar", "an", "in", "es", "ly", "ion", "ate", "ent", "gon")
HIDDEN_SIZE = 128
LONGEST_TEXT = 256


def make_vocabulary() -> list[str]:
    """Whole words, single characters to begin a word, and pieces to go on with: no English text is unknown."""
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [f"##{piece}" for piece in (*letters, *PIECES)]
    signs = ".?!,-:;'()/&+"
    return list(dict.fromkeys([*SPECIAL_WORDS, *signs, *known_words(), *SPARE_WORDS, *letters, *pieces]))


def write_bert(directory: Path) -> None:
    """Write tokenizer, configuration and fresh weights of a BERT with two layers.

    Raises:
        OSError: if the directory cannot be written.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

    directory.mkdir(parents=True, exist_ok=True)
    words = make_vocabulary()
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), do_lower_case=True, model_max_length=LONGEST_TEXT)
    tokenizer.save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * HIDDEN_SIZE,
        max_position_embeddings=LONGEST_TEXT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).half().save_pretrained(directory)
