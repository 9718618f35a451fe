"""What several flow tests build on: a BERT as wide as bert-base-uncased that is written in no time.

Called by: pytest.
Must not import: anything of the project.
Example: def test_it_builds(thin_bert: Path) -> None: prepare_for_inference(config, thin_bert)
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

ZOO_BERT = Path(__file__).parents[2] / "groundcrew" / "zoo" / "tiny-shapes" / "bert"

# Queries are taken by rank, each with an embedding of its rank. Of seeds 0 to 25 this one keeps the scores of
# neighbours furthest apart in test_fast_path's images: 1.2e-4 (1e-6 with seed 24), where rounding differs by 1e-6.
# Two that change places move scores by 1e-4: true of mmdet as of ours, and nothing that a test of equality can compare.
SEED = 9


@pytest.fixture(scope="session")
def thin_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one thin layer of random weights, the same in every run, under the tiny model's vocabulary."""
    directory = tmp_path_factory.mktemp("bert")
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(ZOO_BERT / name, directory / name)
    words = len((directory / "vocab.txt").read_text().splitlines())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = BertModel(BertConfig(vocab_size=words, num_hidden_layers=1, intermediate_size=64))
    model.save_pretrained(directory)
    return directory
