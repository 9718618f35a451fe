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

# Of seeds 0 to 7 the one where test_fast_path's models have no near-tie between the last query chosen and the first
# left out (0.004 and more; 0.000005 with seed 2). A tie may fall differently after rounding, and one query changed
# moves every score by 1e-4: true of mmdet as of ours, and nothing that a test of equal results can compare.
SEED = 5


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
