"""Small image files for tests that need an image and do not care what it shows.

Called by: tests/services. Scenes with known boxes come from groundcrew/zoo instead.
Must not import: backend, worker.
Example: label_studio.upload_images(project, [plain_image("one.png")])
"""

import io

from PIL import Image

from groundcrew.label_studio.client import ImageFile


def plain_image(name: str, *, colour: str = "red", size_px: tuple[int, int] = (64, 48)) -> ImageFile:
    """A PNG of one colour; `size_px` is (width, height)."""
    content = io.BytesIO()
    Image.new("RGB", size_px, colour).save(content, "png")
    return ImageFile(name, content.getvalue())
