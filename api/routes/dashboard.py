"""The page: HTML files and their modules, no build step, nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parents[1] / "dashboard"


@router.get("/")
def open_dashboard() -> FileResponse:
    return _page("index.html")


@router.get("/login")
def open_login() -> FileResponse:
    return _page("login.html")


def _page(name: str) -> FileResponse:
    return FileResponse(FOLDER / name, headers={"cache-control": "no-cache"})
