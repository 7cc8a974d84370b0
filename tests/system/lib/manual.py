"""What the manual pages say, and what the programs say of themselves, in comparable form."""
import os
import re

from lib.daemon import ROOT, program


def page(name):
    with open(os.path.join(ROOT, "man", name)) as f:
        return f.read()


def section(name, title):
    """The lines of one section or subsection, up to the next of its kind."""
    lines, out = page(name).splitlines(), None
    for line in lines:
        if line in (f".Sh {title}", f".Ss {title}"):
            out = []
        elif out is not None and line.startswith((".Sh ", ".Ss ")):
            return out
        elif out is not None:
            out.append(line)
    assert out is not None, f"{name} has no section {title}"
    return out


def items(lines, macro):
    """[([head words], [body lines])] of the .It lines with that macro, for example Cm; heads without a body share the next one's."""
    out = []
    for line in lines:
        if line.startswith(f".It {macro} "):
            out.append(([line[len(f".It {macro} "):]], []))
        elif line.startswith((".It ", ".El", ".Ss ")):
            out.append(([], []))
        elif out:
            out[-1][1].append(line)
    return [(h, b) for h, b in out if h]


def words(text):
    """Words of a macro line: without punctuation that stands alone."""
    return [w for w in text.split() if w not in {",", ".", ";", ":", "|", "or", "and"}]


def codes(lines):
    """The values of `.It code` lines: exit codes."""
    return [line.split()[1] for line in lines if re.fullmatch(r"\.It \d+", line)]


# ---- sluicectl

def verbs(t):
    """From `sluicectl --help`: every verb it prints."""
    text = t.run([program("sluicectl"), "--help"]).stdout
    out = set()
    for line in text.split("\n\n")[1].splitlines():
        left = re.split(r" {2,}", line.strip())[0]
        out.add(" ".join(w for w in left.split() if re.fullmatch(r"[a-z][a-z-]*", w)))
    return out


def json_keys():
    """{verb: {"key", "key.nested"}} of sluicectl(1), section JSON."""
    out = {}
    for (head,), body in items(section("sluicectl.1", "JSON"), "Cm"):
        keys = set()
        if body and body[0].startswith("those"):
            keys |= out[head.replace(" show", " ls") if " show" in head else "ls"]
        last = None
        for line in body:
            if line.startswith((".Li ", ".Pq Li ")):
                flat, _, nested = line.partition(".Pq Li ")
                for name, inner in re.findall(r"(\w+)(?:\[\]|\{([^}]*)\})?", flat.replace(".Li ", "")):
                    last = name
                    keys.add(last)
                    keys |= {f"{last}.{x}" for x in inner.split()} if " " in inner else set()
                for w in words(nested):
                    keys.add(f"{last}.{re.match(r'[a-z_]+', w)[0]}")
        for verb in head.split(" , "):
            out[verb] = keys
    return out
