"""Makes the data files beside it from npm's world-atlas 2.0.2 (`npm pack world-atlas@2.0.2`) and PyPI's pycountry.

Run by hand: ``python services/h3/data/build.py <unpacked package directory>``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycountry
import shapely
from shapely.geometry import mapping

from services.h3.antimeridian import cut

HERE = Path(__file__).parent
USER_ASSIGNED = {"Kosovo": "XKX"}  # no ISO 3166 code of its own; XKX is what the EU, the IMF and others use


def main(package: Path) -> None:
    """Write ``countries_10m.npz``, ``countries_10m.json`` and ``world_110m.geojson``."""
    fine = json.loads((package / "countries-10m.json").read_text())
    write_countries(fine)
    write_outline(json.loads((package / "countries-110m.json").read_text()))


def code_of(geometry: dict[str, Any]) -> str | None:
    """The ISO 3166 alpha-3 code of a feature, None where it has none."""
    found = pycountry.countries.get(numeric=geometry["id"]) if geometry.get("id") else None
    return found.alpha_3 if found else USER_ASSIGNED.get(geometry["properties"]["name"])


def polygons_of(geometry: dict[str, Any]) -> list[Any]:
    """The polygons of a TopoJSON geometry, each a list of rings of arc numbers."""
    match geometry["type"]:
        case "Polygon":
            return [geometry["arcs"]]
        case "MultiPolygon":
            return list(geometry["arcs"])
        case "GeometryCollection":
            return [polygon for part in geometry["geometries"] for polygon in polygons_of(part)]
        case other:
            raise ValueError(other)


def corners(arcs: list[Any], ring: list[int]) -> int:
    """How many points the ring has, its closing one included."""
    return 1 + sum(len(_arc(arcs, number)) - 1 for number in ring)


def write_countries(topology: dict[str, Any]) -> None:
    """Arcs as delta-encoded integers, and which arcs make up which country."""
    arcs = [np.asarray(arc, dtype=np.int32) for arc in topology["arcs"]]
    np.savez_compressed(
        HERE / "countries_10m.npz",
        deltas=np.concatenate(arcs),
        offsets=np.cumsum([0, *map(len, arcs)], dtype=np.int32),
        scale=np.asarray(topology["transform"]["scale"]),
        translate=np.asarray(topology["transform"]["translate"]),
    )
    countries: dict[str, dict[str, Any]] = {}
    for geometry in topology["objects"]["countries"]["geometries"]:
        code = code_of(geometry)
        polygons = [rings for rings in polygons_of(geometry) if corners(arcs, rings[0]) > 3]
        if code is not None and polygons:
            entry = countries.setdefault(code, {"name": geometry["properties"]["name"], "polygons": []})
            entry["polygons"] += polygons
    content = {"land": polygons_of(topology["objects"]["land"]), "countries": dict(sorted(countries.items()))}
    (HERE / "countries_10m.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_outline(topology: dict[str, Any]) -> None:
    """Countries at 1:110 million as one GeoJSON file, hundredths of a degree."""
    scale, translate = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = [np.cumsum(np.asarray(arc), axis=0) * scale + translate for arc in topology["arcs"]]
    features = []
    for geometry in topology["objects"]["countries"]["geometries"]:
        shapes = []
        for polygon in polygons_of(geometry):
            rings = [np.concatenate([_arc(arcs, number)[bool(at) :] for at, number in enumerate(r)]) for r in polygon]
            shapes.append(cut(rings, crossing=True, repair=True))
        shape = shapely.set_precision(shapely.union_all(shapes), 0.01)
        properties = {"iso_a3": code_of(geometry), "name": geometry["properties"]["name"]}
        features.append({"type": "Feature", "properties": properties, "geometry": _plain(mapping(shape))})
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, separators=(",", ":"))
    (HERE / "world_110m.geojson").write_text(text + "\n")


def _arc(arcs: list[Any], number: int) -> Any:
    return arcs[number] if number >= 0 else arcs[~number][::-1]


def _plain(geometry: Any) -> Any:
    return json.loads(json.dumps(geometry), parse_float=lambda text: round(float(text), 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
