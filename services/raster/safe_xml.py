"""Text that came from outside: of bounded size, and XML without document types and entities."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from services.raster.errors import Refuser
from services.raster.gdal import MIB

MAX_XML_BYTES = 16 * MIB


def read_bounded(path: Path, limit: int, refused: Refuser) -> bytes:
    """The content of the file at ``path``.

    Raises:
        RasterError: what ``refused`` makes of the reason why it is not read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise refused(f"cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise refused(f"has more than {limit} bytes, which are not read")
    return content


def parsed(path: Path, root: str, refused: Refuser) -> ElementTree.Element:
    """The tree of the file at ``path``, whose first element must be ``root``.

    Raises:
        RasterError: what ``refused`` makes of the reason why it is not read.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    content = read_bounded(path, MAX_XML_BYTES, refused)
    try:
        tree: ElementTree.Element = fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise refused(f"declares a document type or entities, which are not read ({error!r})") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise refused(f"is no well-formed XML: {error}") from error
    if tree.tag != root:
        raise refused(f"begins with <{tree.tag}>, not <{root}>")
    return tree
