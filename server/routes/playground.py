"""The playground at `/`: a page, its style and its scripts. They use only the public endpoints."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parents[1] / "static"
PARTS = tuple(sorted(file.name for file in STATIC.iterdir() if file.suffix in {".css", ".js"}))
PATHS = frozenset({"/", *(f"/static/{name}" for name in PARTS)})

# The page loads from this server alone, cannot be framed, and the browser refuses text as markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # so that page and script are of one version
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/")
async def page() -> FileResponse:
    """The playground."""
    return FileResponse(STATIC / "index.html", headers=HEADERS)


@router.get("/static/{name}")
async def part(name: str) -> FileResponse:
    """A style or a script of the page."""
    if name not in PARTS:
        raise HTTPException(404)
    return FileResponse(STATIC / name, headers=HEADERS)
