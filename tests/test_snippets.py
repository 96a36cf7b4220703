"""The pages' Python runs as it stands, and a loss of one's own is what its page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_sda.own_classes import import_named

CLONE = Path(__file__).parents[1]


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (CLONE / page).read_text(encoding="utf-8"), re.M | re.S)


def snippet(page: str, mark: str) -> str:
    (found,) = (text for text in snippets(page) if mark in text)
    return found


def test_moda_and_cmsa_train_a_model_of_ones_own_without_recbole(tmp_path):
    """As the page has it, its loss printed; in a process that cannot import RecBole."""
    code = snippet("docs/peft.md", "get_peft_model")
    loss = re.search(r"^    (cached_step\(.*)$", code, re.M)[1].partition(" #")[0].rstrip()
    code = "import sys\nsys.modules['recbole'] = None\n" + code.replace(loss, f"print(float({loss}))")
    code = code.replace("import torch\n", "import torch\ntorch.manual_seed(0)\n", 1)
    code += "print(type(plain).__name__)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *losses, kind = done.stdout.split()
    assert len(losses) == 20
    assert float(losses[-1]) < 0.7 * float(losses[0])
    assert kind == "Sequential"
    assert (tmp_path / "moda" / "adapter_config.json").is_file()


@pytest.fixture
def margin(tmp_path, monkeypatch):
    (tmp_path / "snippet_losses.py").write_text(snippet("README.md", "# shop_losses.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_named("snippet_losses:Margin", key="alignment")
    sys.modules.pop("snippet_losses")


@pytest.mark.parametrize("chunk_rows", [4, 256])
def test_the_loss_of_ones_own_is_its_formula(margin, chunk_rows):
    """Row by row: how far each wrong pair comes within the margin of the right one."""
    loss = margin(temperature=0.1, chunk_rows=chunk_rows)
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(10, 6, generator=generator) for _ in range(2)]
    units = [torch.nn.functional.normalize(view - view.mean(0)) for view in views]
    expected = []
    for queries, keys in (units, units[::-1]):
        rows = [
            sum(max(0.0, float(0.2 + queries[i] @ keys[j] - queries[i] @ keys[i])) for j in range(10)) / 10
            for i in range(10)
        ]
        expected.append(sum(rows))
    found = loss.compare(units, units)
    torch.testing.assert_close(found[:, 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert found[:, 1].tolist() == [0.0, 0.0]
    assert torch.isfinite(loss(*views))


def test_every_python_snippet_is_python():
    pages = ["README.md", *(str(page.relative_to(CLONE)) for page in sorted((CLONE / "docs").glob("*.md")))]
    found = [(page, text) for page in pages for text in snippets(page)]
    assert len(found) > 3
    for page, text in found:
        compile(text, page, "exec")
