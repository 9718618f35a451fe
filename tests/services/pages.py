"""Label Studio's pages as a person uses them, driven in a headless Chromium.

Called by: tests/services/test_browser.py, docs/stage.py. Selectors are those of Label Studio 1.23.2.
Must not import: backend, worker.
Example: pages.open_task(project, task); pages.regions()[0].label
"""

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect

WAIT_MS = 60_000

#: Every region the editor holds, with the numbers it draws: percent of the image.
_REGIONS = "regions => regions.map(r => ({label: r.labelName, x: r.x, y: r.y, width: r.width, height: r.height}))"
_SHOWN = f"({_REGIONS})([...window.Htx.annotationStore.selected.regionStore.regions])"
_SUGGESTED = f"({_REGIONS})([...window.Htx.annotationStore.selected.suggestions.values()])"

_EDITOR_IS_READY = """() => {
    const annotation = window.Htx?.annotationStore?.selected
    return annotation?.objects.some(o => o.imageIsLoaded) && annotation.regionStore.regions.length > 0
}"""


@dataclass(frozen=True)
class ShownBox:
    """A box in the editor, in percent of the image."""

    label: str
    x_pct: float
    y_pct: float
    width_pct: float
    height_pct: float


class LabelStudioPages:
    """One signed-in person in front of one browser tab."""

    def __init__(self, page: Page, url: str, pictures_dir: Path) -> None:
        self._page = page
        self._url = url
        self._pictures_dir = pictures_dir
        page.set_default_timeout(WAIT_MS)

    def sign_in(self, email: str, password: str) -> None:
        self._page.goto(f"{self._url}/user/login/")
        self._page.fill("input[name=email]", email)
        self._page.fill("input[name=password]", password)
        self._page.click("button[type=submit]")
        self._page.wait_for_url(lambda url: "/login" not in url)

    def take_picture(self, name: str) -> None:
        self._pictures_dir.mkdir(parents=True, exist_ok=True)
        self._page.screenshot(path=self._pictures_dir / f"{name}.png")

    def read_backend_card(self, project: int, title: str) -> str:
        """The text of a backend's card in the project's settings, its state included."""
        self._page.goto(f"{self._url}/projects/{project}/settings/ml")
        card = self._page.locator("[class*=backend-card]").filter(has_text=title).first
        card.wait_for()
        return card.inner_text()

    def start_training(self, project: int, title: str) -> None:
        """Menu of a backend's card, Start Training, and again in the dialog; returns when Label Studio has answered."""
        self.read_backend_card(project, title)
        card = self._page.locator("[class*=backend-card]").filter(has_text=title).first
        card.get_by_label("Machine learning model options").click()
        self._page.get_by_text("Start Training", exact=True).click()
        with self._page.expect_response(lambda answer: answer.url.endswith("/train")) as answer:
            self._page.get_by_role("button", name="Start Training").click()
        assert answer.value.ok, answer.value.text()

    def open_actions(self, project: int) -> None:
        """Data manager: select all, and open the menu of actions, whose button says then how many tasks there are."""
        self._page.goto(f"{self._url}/projects/{project}/data")
        self._page.wait_for_load_state("networkidle")
        self._page.locator("input[type=checkbox]").first.check(force=True)
        self._page.locator("button:has-text('Task')").first.click()

    def retrieve_all_predictions(self, project: int) -> None:
        """Data manager: select all, Retrieve Predictions, OK; returns when Label Studio has answered."""
        self.open_actions(project)
        self._page.get_by_text("Retrieve Predictions").first.click()
        with self._page.expect_response(lambda answer: "retrieve_tasks_predictions" in answer.url) as answer:
            self._page.locator("button:has-text('OK')").last.click()
        assert answer.value.ok, answer.value.text()

    def show_prediction_count(self, project: int, count: int) -> None:
        """Opens the data manager and waits until its footer counts that many predictions."""
        self._page.goto(f"{self._url}/projects/{project}/data")
        self._page.get_by_text(f"Predictions: {count}").wait_for()

    def open_task(self, project: int, task: int) -> None:
        """Opens a task that has boxes, and waits until the editor has the image and the boxes."""
        self._page.goto(f"{self._url}/projects/{project}/data?task={task}")
        self._page.wait_for_load_state("networkidle")
        self._page.wait_for_function(_EDITOR_IS_READY)

    def regions(self) -> list[ShownBox]:
        return _boxes(self._page.evaluate(_SHOWN))

    def region_rows(self) -> list[str]:
        """The texts of the list of regions beside the image, once it has drawn them all."""
        rows = self._page.locator(".lsf-outliner-item__title")
        expect(rows).to_have_count(len(self.regions()), timeout=WAIT_MS)
        return rows.all_inner_texts()

    def switch_auto_annotation_on(self) -> None:
        self._page.locator("label", has_text="Auto-Annotation").click()
        expect(self._page.get_by_test_id("bottombar-auto-annotation-toggle")).to_be_checked(timeout=WAIT_MS)

    def type_prompt(self, text: str) -> list[ShownBox]:
        """Types into the prompt field, presses Enter and returns the boxes that the model suggests."""
        prompt = self._page.get_by_test_id("textarea-input")
        prompt.fill(text)
        prompt.press("Enter")
        self._page.get_by_test_id("bottombar-accept-suggestions-button").wait_for()
        return _boxes(self._page.evaluate(_SUGGESTED))

    def accept_suggestions(self) -> None:
        self._page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self._page.wait_for_function("window.Htx.annotationStore.selected.suggestions.size == 0")


def _boxes(rows: list[dict]) -> list[ShownBox]:
    return [ShownBox(row["label"], row["x"], row["y"], row["width"], row["height"]) for row in rows]
