"""A self-contained HTML page: text, tables and embedded figures."""

import base64
import html
import io

import matplotlib.pyplot as plt

__all__ = ["Page"]

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1040px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.8rem; margin-bottom: .2rem; } h2 { margin-top: 2.4rem; font-size: 1.3rem;
       border-bottom: 1px solid #ccc; } p.source { color: #555; margin-top: 0; }
.answer { background: #eef5fa; border-left: 5px solid #0072B2; padding: .6rem 1.2rem; }
.warning { background: #fdf0e6; border-left: 5px solid #D55E00; padding: .6rem 1.2rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .92rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
       font-size: .9rem; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
       white-space: nowrap; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } pre { white-space: pre-wrap; font-size: .85rem; }
small { color: #555; }
@media print { body { font-size: 10pt; max-width: none; margin: 0; } table { font-size: 8.5pt; }
  th, td { padding: .15rem .4rem; }
  figure, table, .answer, .warning { break-inside: avoid; } h2 { break-after: avoid; } }
"""


class Page:
    """A self-contained HTML page that grows from top to bottom; figures are saved beside it too."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.parts = folder, []

    def add(self, text):
        """Add HTML."""
        self.parts.append(text)

    def heading(self, text):
        """Begin a section."""
        self.add(f"<h2>{text}</h2>")

    def table(self, header, rows, title=None, *, echo=True):
        """Add a table, and print it with its title when `echo`."""
        cells = "".join(f"<th>{h}</th>" for h in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>"
            for row in rows
        )
        self.add(f'<div class="scroll"><table><tr>{cells}</tr>{body}</table></div>')
        if not echo:
            return
        widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
        print(f"\n{title}")
        for row in [header, *rows]:
            print("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())

    def figure(self, name, figure, caption):
        """Save a figure as a PNG file and embed it."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight")
        plt.close(figure)
        (self.folder / f"{name}.png").write_bytes(buffer.getvalue())
        data = base64.b64encode(buffer.getvalue()).decode()
        alt = html.escape(caption, quote=True)
        self.add(
            f'<figure><img alt="{alt}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def write(self, title):
        """Write ``index.html``."""
        path = self.folder / "index.html"
        path.write_text(
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{CSS}</style></head><body>"
            + "\n".join(self.parts)
            + "</body></html>\n",
            encoding="utf-8",
        )
        return path
