"""Parameters of the raster handlers and jobs. Their JSON Schemas are what forms and clients are built from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, field_validator, model_validator

from core.jobs import JobParameters

if TYPE_CHECKING:
    from pyproj import CRS


class RasterType(StrEnum):
    """What the pixels mean; decides compression, resampling and stretch."""

    RGB = "rgb"
    RGBA = "rgba"
    DEM = "dem"
    CATEGORICAL = "categorical"
    MULTISPECTRAL = "multispectral"
    NIR = "nir"
    SINGLE_BAND = "single_band"


class Compression(StrEnum):
    """Codec of the COG. ``jpeg``, and ``webp`` below quality 100, lose information."""

    DEFLATE = "deflate"
    ZSTD = "zstd"
    LZW = "lzw"
    NONE = "none"
    JPEG = "jpeg"
    WEBP = "webp"


class Resampling(StrEnum):
    """How pixels are resampled. ``nearest`` and ``mode`` make no new values."""

    NEAREST = "nearest"
    MODE = "mode"
    BILINEAR = "bilinear"
    CUBIC = "cubic"
    CUBIC_SPLINE = "cubic_spline"
    LANCZOS = "lanczos"
    AVERAGE = "average"


class Verification(StrEnum):
    """Which of the encoded blocks are decoded and compared before the file is published."""

    SAMPLE = "sample"
    EVERY_BLOCK = "every_block"


CONTAINER_NAME = r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"
"""Source: https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata"""

_SIGNATURES = frozenset({"sig", "signature", "token", "access_token", "x-amz-signature", "x-goog-signature"})


def without_secrets(url: str) -> str:
    """``url`` itself; parameters are stored and shown, so that a URL with a credential in it is refused.

    Raises:
        ValueError: when it carries a user, a password or a signature.
    """
    if "\0" in url:
        raise ValueError("must not contain a NUL character")
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL that can be parsed") from None
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password; the worker signs in itself")
    if any(name.lower() in _SIGNATURES for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(
            "must not contain a signature or token (SAS), because parameters are stored; give the address without its "
            "query: the worker reads it as its own identity, or with the signature that SOURCE_SAS_URLS holds"
        )
    return url


_CRS_CODE = re.compile(r"^[A-Za-z][A-Za-z0-9_]*:[A-Za-z0-9_.+:-]+$")
_CRS_WKT = re.compile(r"^\s*[A-Za-z_]+\s*\[")
_CRS_FILE_REFERENCE = re.compile(r"(?i)init\s*=|grids\s*=|file\s*[=\[]|@|://")
_NO_GRID = re.compile(r"\+nadgrids=@null(?=[\s\"]|$)")  # GDAL's WKT of EPSG:3857 says so


def parsed_safely(text: str) -> CRS:
    """The coordinate reference system that ``text`` describes.

    Codes (``EPSG:32633``), WKT, PROJJSON and PROJ strings are read; what would make PROJ open files is refused.

    Raises:
        ValueError: saying what is wrong and what is allowed.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    text = text.strip()
    form = _CRS_CODE.match(text) or _CRS_WKT.match(text) or text.startswith(("{", "+proj="))
    if not form or _CRS_FILE_REFERENCE.search(_NO_GRID.sub("", text)):
        raise ValueError(
            f"{text[:80]!r} is not a coordinate reference system; give a code such as EPSG:32633, or WKT, PROJJSON or "
            "a PROJ string without file references"
        )
    try:
        return CRS.from_user_input(text)
    except CRSError:
        raise ValueError(
            f"{text[:80]!r} is not a known coordinate reference system; give for example EPSG:4326 or EPSG:32633"
        ) from None


def known_crs(text: str) -> str:
    """``text`` itself when it names a horizontal coordinate reference system.

    Raises:
        ValueError: as :func:`parsed_safely`, and when it is neither geographic nor projected.
    """
    text = text.strip()
    crs = parsed_safely(text)
    if not (crs.is_geographic or crs.is_projected):
        raise ValueError(f"{text[:80]!r} is a {crs.type_name}; a geographic or projected one is needed")
    return text


SourceUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="The raster to read: a path that the worker can open, `az://container/blob`, or an https URL of an "
        "allowed host. Must not contain a signature or password.",
        examples=["/mounts/etl-temp/incoming/scene.tif", "az://bronze/2024/scene.tif"],
    ),
    AfterValidator(without_secrets),
]
OutputDirectory = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=4096,
        description="Where outputs go: a directory, or `az://container/prefix`; each job has a directory of its own in "
        "it. Default: the worker's.",
        examples=["/mounts/etl-temp/outputs", "az://silver/cogs"],
    ),
    AfterValidator(lambda given: given if given is None else without_secrets(given)),
]
Subdataset = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=1024,
        description="Variable of a netCDF or HDF5 file. Not needed when it has only one that is a raster.",
        examples=["temperature"],
    ),
]
CrsText = Annotated[str, Field(min_length=1, max_length=20_000), AfterValidator(known_crs)]
InputCrs = Annotated[
    CrsText | None,
    Field(description="CRS of a source that has none of its own. Never overrides one.", examples=["EPSG:32633"]),
]
TargetCrs = Annotated[
    CrsText | None,
    Field(
        description="CRS of the COG. Left out, the source's own is kept and no pixel resampled.", examples=["EPSG:4326"]
    ),
]


def _either_way(schema: dict[str, Any]) -> None:
    schema["required"] = [name for name in schema.get("required", []) if name != "source_url"]
    schema["anyOf"] = [{"required": ["source_url"]}, {"required": ["container_name", "blob_name"]}]


class ReadParameters(JobParameters):
    """What every raster handler needs to read its source.

    ``container_name`` and ``blob_name`` are another way to write ``source_url``: they become it.
    """

    model_config = ConfigDict(json_schema_extra=_either_way)

    source_url: SourceUrl
    container_name: str | None = Field(
        default=None,
        pattern=CONTAINER_NAME,
        description="Container of the worker's Blob Storage account, with `blob_name` instead of `source_url`.",
        examples=["bronze"],
    )
    blob_name: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Blob in it.", examples=["2024/scene.tif"]
    )
    subdataset: Subdataset = None
    input_crs: InputCrs = None

    @model_validator(mode="before")
    @classmethod
    def _blob_is_a_source(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("container_name") is given.get("blob_name") is None:
            return given
        container, blob = given.get("container_name"), given.get("blob_name")
        if not isinstance(container, str) or not isinstance(blob, str) or not container or not blob:
            raise ValueError("container_name and blob_name must be given together, as text")
        if given.get("source_url") is not None:
            raise ValueError("give source_url, or container_name and blob_name, not both")
        if re.fullmatch(CONTAINER_NAME, container) is None:
            raise ValueError(f"container_name: {container[:70]!r} is no name of a container")
        rest = {name: value for name, value in given.items() if name not in {"container_name", "blob_name"}}
        return {**rest, "source_url": f"az://{container}/{blob}"}


class CogParameters(JobParameters):
    """How the COG is made."""

    target_crs: TargetCrs = None
    raster_type: RasterType | None = Field(
        default=None, description="What the pixels mean. Left out, it is detected; decides resampling and stretch."
    )
    compression: Compression = Field(default=Compression.DEFLATE, description="Codec. The default is lossless.")
    level: int | None = Field(
        default=None, ge=1, le=22, description="Effort of deflate (1 to 12, default 6) or zstd (1 to 22, default 9)."
    )
    quality: int = Field(default=85, ge=1, le=100, description="Quality of jpeg and webp; webp at 100 is lossless.")
    resampling: Resampling | None = Field(
        default=None, description="For reprojection. Default: nearest for categories, else bilinear."
    )
    overview_resampling: Resampling | None = Field(
        default=None, description="For overviews. Default: nearest for categories, else average."
    )
    blocksize: Literal[128, 256, 512, 1024] = Field(default=512, description="Width and height of a block, in pixels.")
    verification: Verification = Field(
        default=Verification.SAMPLE,
        description="Which blocks are decoded and compared before the file is published: a sample that has blocks of "
        "every row and column of blocks of every level, or every block (a tenth more processor time).",
    )


class ItemParameters(JobParameters):
    """What the STAC item says beyond what the raster itself knows."""

    item_id: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,128}$", description="Id of the item. Default: the source's file name."
    )
    acquired: AwareDatetime | None = Field(
        default=None,
        description="When the data was acquired, with time zone. Default: the raster's own tag, else the file's time.",
    )
    collection: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="Id of the collection that the item belongs to; the item links to <id>.json beside it.",
    )


class ValidateRaster(ReadParameters):
    """Parameters of ``validate_raster``."""


class OutputParameters(JobParameters):
    """Where outputs go, and what they are called."""

    output_dir: OutputDirectory = None
    output_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$",
        description="What the names of the outputs begin with. Default: the source's file name.",
    )


class CreateCog(ReadParameters, CogParameters, OutputParameters):
    """Parameters of ``create_cog``."""


class CreateStacItem(ItemParameters):
    """Parameters of ``create_stac_item``."""

    cog_path: str = Field(
        min_length=1, max_length=4096, description="The COG to describe; the item is written beside it."
    )
    raster_type: RasterType | None = Field(default=None, description="What the pixels mean. Left out, it is detected.")
    before: dict[str, Any] | None = Field(
        default=None, description="The picture of the source that ``create_cog`` made; it is passed on in the result."
    )


class ProcessRasterSteps(ReadParameters, CogParameters, ItemParameters, OutputParameters):
    """Parameters of ``process_raster_v2``: one COG, whatever its size."""


class ProcessRaster(ProcessRasterSteps):
    """Parameters of ``process_raster_docker`` and ``process_raster_complete``."""

    tiling_threshold_mb: float | None = Field(
        default=None,
        ge=0,
        description="Declared size (width x height x bands x bytes) in MiB above which the output is a mosaic of tiles "
        "instead of one COG. Default: the worker's RASTER_TILING_THRESHOLD_MB.",
    )
    tile_size: int | None = Field(
        default=None,
        ge=512,
        le=16384,
        multiple_of=512,
        description="Width and height of a tile in pixels, a multiple of 512. Default: what memory allows, up to 4096.",
    )


class ProcessCollection(CogParameters):
    """Parameters of ``process_raster_collection``."""

    sources: tuple[SourceUrl, ...] = Field(min_length=1, max_length=2000, description="The rasters to read.")
    collection_id: str = Field(
        default="collection", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="Id of the STAC collection."
    )
    description: str = Field(
        default="Rasters of one job.", min_length=1, max_length=10_000, description="What the collection is."
    )
    failure_policy: Literal["fail_fast", "collect"] = Field(
        default="fail_fast",
        description="What one source that fails does: it ends the job (fail_fast), or is named in the report while "
        "the others become the collection (collect).",
    )
    input_crs: InputCrs = None
    output_dir: OutputDirectory = None
    acquired: AwareDatetime | None = Field(
        default=None, description="When the data of all sources was acquired. Default: each source's own tag or time."
    )
    tiling_threshold_mb: float | None = Field(
        default=None,
        ge=0,
        description="Declared size in MiB above which a source becomes tiles. Default: the worker's.",
    )

    @field_validator("sources")
    @classmethod
    def _each_once(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({source for source in sources if sources.count(source) > 1})
        if twice:
            raise ValueError(f"names {twice[0]!r} more than once")
        return sources


class CollectRasters(JobParameters):
    """Parameters of ``collect_rasters``: what has become of each source of a collection."""

    collection_id: str = Field(description="Id of the collection; its file is <id>.json.")
    description: str = Field(description="What the collection is.")
    output_dir: OutputDirectory = None
    processed: tuple[dict[str, Any], ...] = Field(description="Source, and the address of its item or collection.")
    failed: tuple[dict[str, Any], ...] = Field(description="Source, and the code and message of its error.")
