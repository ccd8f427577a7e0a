"""The page: one HTML file and its modules, no build step, nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parents[1] / "dashboard"


@router.get("/")
def open_dashboard() -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers={"cache-control": "no-cache"})
