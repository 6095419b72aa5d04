"""Parameters of raster jobs: what is refused and with which words, and how a job's parameters reach its stages."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rasterio.crs import CRS

from core.errors import InvalidInput
from core.handlers import HandlerRegistry, validate
from core.jobs import JobRegistry, check_registries
from core.records import TaskResult
from core.states import TaskStatus
from services.raster.jobs import ProcessRasterDocker, ProcessRasterV2
from services.raster.parameters import CreateCog, CreateStacItem, ProcessRaster, ValidateRaster
from services.raster.registry import HANDLERS, JOBS


@pytest.mark.parametrize(
    "url",
    [
        "https://account.blob.core.windows.net/bronze/a.tif?sv=2024&sig=abc%3D",
        "https://account.blob.core.windows.net/bronze/a.tif?SIG=abc",
        "https://bucket.s3.amazonaws.com/a.tif?X-Amz-Signature=00ff",
        "https://user:secret@example.com/a.tif",
        "https://user@example.com/a.tif",
        "file:///mounts/a\0.tif",
    ],
)
def test_a_source_with_a_credential_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(ValidateRaster, {"source_url": url}, subject="parameters")
    assert caught.value.faults[0].field == "source_url"
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


BOUND_BY_A_FILE = (
    f"BOUNDCRS[SOURCECRS[{CRS.from_epsg(4267).to_wkt(version='WKT2_2019')}],"
    f"TARGETCRS[{CRS.from_epsg(4326).to_wkt(version='WKT2_2019')}],"
    'ABRIDGEDTRANSFORMATION["x",METHOD["NTv2"],PARAMETERFILE["Latitude and longitude difference file","/etc/passwd"]]]'
)


@pytest.mark.parametrize(
    "path", ["/mounts/etl-temp/a.tif", "relative/a b?c#d.tif", "https://example.com/a.tif?x=1", "é.tif"]
)
def test_a_plain_source_is_taken_as_it_is(path: str) -> None:
    assert ValidateRaster(source_url=path).source_url == path


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:4326",
        "epsg:32633",
        "ESRI:102039",
        "OGC:CRS84",
        "+proj=laea +lat_0=52 +lon_0=10 +datum=WGS84",
        "urn:ogc:def:crs:EPSG::3857",
        'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]]',
        "+proj=merc +a=6378137 +b=6378137 +nadgrids=@null",
        CRS.from_epsg(3857).to_wkt(),
    ],
)
def test_a_known_crs_is_taken(crs: str) -> None:
    assert CreateCog(source_url="a.tif", target_crs=crs, input_crs=crs).target_crs == crs


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:999999",
        "nonsense",
        "4978",
        "EPSG:4978",
        "EPSG:5773",
        "/etc/passwd",
        "+init=epsg:4326",
        "+init=/etc/passwd:4326",
        "+proj=longlat +nadgrids=/etc/passwd",
        "+proj=longlat +nadgrids=@null,/etc/passwd",
        "+proj=longlat +nadgrids=@nullx",
        "+proj=longlat +nadgrids=@null +geoidgrids=/etc/passwd",
        BOUND_BY_A_FILE,
        "http://localhost/crs.wkt",
        "{}",
        "EPSG:",
        " ",
    ],
)
@pytest.mark.parametrize("field", ["input_crs", "target_crs"])
def test_an_unknown_crs_or_one_that_opens_files_is_refused_by_name(field: str, crs: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(CreateCog, {"source_url": "a.tif", field: crs}, subject="parameters")
    assert [fault.field for fault in caught.value.faults] == [field]


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(
            ProcessRaster,
            {
                "compression": "rar",
                "blocksize": 100,
                "quality": 0,
                "target_crs": "x",
                "tile": 1,
                "acquired": "2024-01-01",
            },
            subject="parameters",
        )
    assert {fault.field for fault in caught.value.faults} == {
        "source_url",
        "compression",
        "blocksize",
        "quality",
        "target_crs",
        "tile",
        "acquired",
    }


def test_schemas_describe_every_parameter() -> None:
    for spec in HANDLERS:
        assert spec.parameters is not None
        schema = spec.parameters.model_json_schema()
        assert schema["additionalProperties"] is False
        for name, field in schema["properties"].items():
            assert field.get("description"), f"{spec.task_type}.{name}"


def test_jobs_and_handlers_fit_together() -> None:
    check_registries(JobRegistry(JOBS), HandlerRegistry(HANDLERS))


def test_importing_the_registry_loads_neither_gdal_nor_numpy() -> None:
    code = (
        "import sys, services.raster.registry\n"
        "from services.raster import sample_raster\n"
        "assert sample_raster().is_file()\n"
        "print([name for name in ('rasterio', 'numpy', 'pyproj', 'shapely', 'PIL', 'pystac') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _result(data: dict[str, object]) -> TaskResult:
    return TaskResult(task_id="t", task_index=0, status=TaskStatus.COMPLETED, result_data=data, error_details=None)


def test_each_stage_is_given_what_concerns_it_and_what_the_one_before_found() -> None:
    job = ProcessRasterV2()
    given = ProcessRaster(
        source_url="/data/a.tif",
        target_crs="EPSG:3857",
        output_dir="/out",
        item_id="scene",
        compression="zstd",
        blocksize=256,
    )
    first, second, third = job.stages
    [validation] = job.plan(first, given, [])
    assert ValidateRaster(**validation.parameters).source_url == "/data/a.tif"
    [cog] = job.plan(second, given, [_result({"raster_type": {"detected_type": "dem"}})])
    assert CreateCog(**cog.parameters) == CreateCog(
        source_url="/data/a.tif",
        target_crs="EPSG:3857",
        output_dir="/out",
        compression="zstd",
        blocksize=256,
        raster_type="dem",
    )
    [stac] = job.plan(third, given, [_result({"path": "/out/a/a.tif", "raster_type": "dem"})])
    assert CreateStacItem(**stac.parameters) == CreateStacItem(
        cog_path="/out/a/a.tif", raster_type="dem", item_id="scene"
    )
    assert job.finalize(given, [_result({"success": True, "stac": {}})]) == {"success": True, "stac": {}}


def test_a_raster_type_that_is_given_outranks_the_detected_one() -> None:
    given = ProcessRaster(source_url="/data/a.tif", raster_type="categorical")
    [cog] = ProcessRasterV2().plan(
        ProcessRasterV2.stages[1], given, [_result({"raster_type": {"detected_type": "dem"}})]
    )
    assert cog.parameters["raster_type"] == "categorical"


def test_the_docker_job_is_one_task_with_the_parameters_of_the_job() -> None:
    job = ProcessRasterDocker()
    given = ProcessRaster(source_url="/data/a.tif", target_crs="EPSG:3857", acquired="2024-05-01T10:00:00Z")
    [task] = job.plan(job.stages[0], given, [])
    assert ProcessRaster(**task.parameters) == given
