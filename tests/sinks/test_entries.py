"""An entry is replaced where it stands, and nothing else of the file changes by a byte."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rotator.errors import NeedsPerson
from rotator.secret import Secret
from rotator.sinks.entries import DOTENV, JSON, RAW, NotUnderstood, read, write

from .builders import a_file_sink, deliver, failure_of

NAME = "NEON_API_KEY"
values = st.text(st.sampled_from("abcXYZ019_-.:/@%+=,"), min_size=1, max_size=30)


def lines(*text: str) -> str:
    return "\n".join(text)


# dotenv, case by case


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", "K=new\n", id="an empty file"),
        pytest.param("K=old\n", "K=new\n", id="a plain line"),
        pytest.param("K=old", "K=new", id="no line end at the end"),
        pytest.param("A=1", "A=1\nK=new\n", id="put behind a line without an end"),
        pytest.param("A=1\r\n", "A=1\r\nK=new\r\n", id="put at the end, with the file's line ends"),
        pytest.param("A=1\r\nK=old\r\nB=2\r\n", "A=1\r\nK=new\r\nB=2\r\n", id="CRLF"),
        pytest.param("export K=old\n", "export K=new\n", id="export"),
        pytest.param("  export\tK = old \n", "  export\tK = new \n", id="blanks"),
        pytest.param('K="old"\n', 'K="new"\n', id="double quotes stay"),
        pytest.param("K='old' # why\n", "K='new' # why\n", id="quotes and a comment stay"),
        pytest.param("K=old # why\n", "K=new # why\n", id="a comment stays"),
        pytest.param("K=old#1\n", "K=new\n", id="no comment without a blank before it"),
        pytest.param("K=\nA=1\n", "K=new\nA=1\n", id="an empty value"),
        pytest.param("K=   # none yet\n", "K=new   # none yet\n", id="an empty value before a comment"),
        pytest.param('K=""\n', 'K="new"\n', id="empty quotes"),
        pytest.param("K=1\nA=2\nK=3\n", "K=new\nA=2\nK=new\n", id="twice: both, so that no readers disagree"),
        pytest.param("#K=old\n", "#K=old\nK=new\n", id="commented out"),
        pytest.param("KK=1\nK2=2\nXK=3\n", "KK=1\nK2=2\nXK=3\nK=new\n", id="names that contain it"),
        pytest.param(
            'A="x\nK=inside\n"\nK=old\n', 'A="x\nK=inside\n"\nK=new\n', id="a line that is inside a quotation"
        ),
        pytest.param(
            "A='x\nK=inside\n' # c\nK=old\n", "A='x\nK=inside\n' # c\nK=new\n", id="the same with ' and a comment"
        ),
        pytest.param('K="one\ntwo"\nA=1\n', 'K="new"\nA=1\n', id="its own value is over several lines"),
        pytest.param('A="say \\"K=\\""\nK=old\n', 'A="say \\"K=\\""\nK=new\n', id="escaped quotes"),
        pytest.param("A='it\\'s'\nK=old\n", "A='it\\'s'\nK=new\n", id="' escaped, as some readers have it"),
        pytest.param("A='C:\\'\nK=old\n", "A='C:\\'\nK=new\n", id="' not escaped, as a shell has it"),
        pytest.param("A='it'\\''s'\nK=old\n", "A='it'\\''s'\nK=new\n", id="a shell's way to quote '"),
        pytest.param('P="$HOME/bin":$PATH\nK=old\n', 'P="$HOME/bin":$PATH\nK=new\n', id="quoted in part"),
        pytest.param('K="old"er # c\n', "K=new # c\n", id="itself quoted in part"),
        pytest.param("A=it's\nK=old\n", "A=it's\nK=new\n", id="a quote in the middle means nothing"),
        pytest.param('J={"a": "b"}\nK=old\n', 'J={"a": "b"}\nK=new\n', id="JSON in a value"),
        pytest.param("what is this\nK=old\n", "what is this\nK=new\n", id="a line that assigns nothing"),
        pytest.param("K\nK=old\n", "K\nK=new\n", id="the name alone"),
        pytest.param("\ufeffK=old\n", "\ufeffK=new\n", id="a byte order mark"),
        pytest.param("A=a\rb\nK=old\n", "A=a\rb\nK=new\n", id="a lone carriage return"),
        pytest.param("Ü=ä\nK=old\n", "Ü=ä\nK=new\n", id="letters of other languages"),
    ],
)
def test_a_dotenv_entry_is_replaced_in_place(before: str, after: str) -> None:
    assert write(before, DOTENV, "K", "new") == after
    assert read(after, DOTENV, "K") == "new"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('A=1\nB="x\nK=old\n', "a quotation in its line 2 is not closed", id="never closed"),
        pytest.param(
            'A="x\nK=old\nB="y\n',
            "its line 3 goes on after a quotation of several lines",
            id="closed by another's quote",
        ),
        pytest.param('A="x\nK=old\nB="y z"\n', "a quotation in its line 3 is not closed", id="an odd number of quotes"),
    ],
)
def test_a_quotation_that_readers_would_take_differently_is_refused(text: str, problem: str) -> None:
    with pytest.raises(NotUnderstood, match=problem):
        write(text, DOTENV, "K", "new")


def test_a_key_that_would_need_quotation_is_refused() -> None:
    with pytest.raises(NotUnderstood) as refused:
        write("", DOTENV, "K", "two words")
    assert "two words" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "A='x'\nK=old # c\nB=2\n",
        "export K='old'\n",
        'A="one\nK=inside\n"\nK="old" # c',
        "A='it'\\''s'\nK=old\nK=older\n",
        'P="$HOME/bin":$PATH\nK="ol"d\n',
        "",
    ],
)
def test_a_shell_reads_the_new_value_and_the_others_as_before(text: str, tmp_path: Path) -> None:
    def as_a_shell(content: str) -> list[str]:
        file = tmp_path / "env"
        file.write_text(content)
        script = f'A= B= P= K=; . {shlex.quote(str(file))}; printf "%s\\0" "$A" "$B" "$P" "$K"'
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")

    before, after = as_a_shell(text), as_a_shell(write(text, DOTENV, "K", "napi_new"))
    assert after[:3] == before[:3]
    assert after[3] == "napi_new"


# As large as a file may be


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A=x" + " " * 1_000_000 + "y\n", id="a million blanks in a value"),
        pytest.param("K=\n" * 60_000, id="the entry again and again"),
        pytest.param("export " + " " * 1_000_000, id="nothing but blanks after a word"),
        pytest.param("A='" + "\\'" * 400_000 + "\n", id="escape upon escape"),
        pytest.param("A=" + "'x'" * 300_000 + "\n", id="quotation upon quotation"),
    ],
)
@pytest.mark.parametrize("form", [DOTENV, JSON])
def test_a_file_of_a_mebibyte_is_edited_or_refused_without_long_thought(text: str, form: str) -> None:
    """While it takes, the folder's lock is held: what took minutes would end every other delivery to it."""
    if form == JSON:
        text = '{"A": 1' + ', "K": ""' * 20_000 + "}" if text.startswith("K") else json.dumps({"A": text})
    try:
        assert read(write(text, form, "K", "new"), form, "K") == "new"
    except NotUnderstood:
        assert form == DOTENV


# dotenv, in general: a file is made of pieces, of which only the entry's values change

blanks = st.text(st.sampled_from(" \t"), max_size=2)
words = st.text(st.sampled_from("abc 019_-=$ä\\{}[];:"), max_size=10).map(str.strip)
comments = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12).map("#".__add__)
others = st.sampled_from(["A", "B_2", "lower", "X.Y", f"{NAME}_OLD", f"MY_{NAME}"])


def _joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


def _quotations(inside: str) -> st.SearchStrategy[str]:
    text = st.text(st.sampled_from(inside), max_size=12)
    return st.one_of(*(_joined(st.just(quote), text, st.just(quote)) for quote in "'\"`"))


foreign_lines = st.one_of(
    blanks,
    _joined(blanks, comments),
    _joined(blanks, st.sampled_from(["", "export "]), others, st.just("="), words),
    _joined(blanks, others, st.just("="), _quotations(f"abc=# {NAME}ä"), blanks),
    _joined(others, st.just("="), _quotations(f"ab={NAME}\n \t#"), st.sampled_from(["", " # c", "#"])),
)
entry_lines = st.tuples(
    _joined(blanks, st.sampled_from(["", "export ", "export\t"]), st.just(NAME), blanks, st.just("=")),
    st.one_of(
        st.tuples(blanks, st.text(st.sampled_from("abc019_$"), min_size=1), st.just("")),
        st.sampled_from("'\"`").flatmap(
            lambda quote: st.tuples(
                blanks.map(lambda blank: blank + quote), st.text(st.sampled_from("ab =#$\n")), st.just(quote)
            )
        ),
        st.just(("", "", "")),
    ),
    st.one_of(st.just(""), blanks, _joined(st.sampled_from(" \t"), comments)),
)


@given(
    pieces=st.lists(st.one_of(foreign_lines, entry_lines), max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    value=values,
)
def test_only_the_values_of_a_dotenv_entry_change(
    pieces: list[str | tuple[str, tuple[str, str, str], str]], line_end: str, ended: bool, value: str
) -> None:
    before, after, there = [], [], False
    for piece in pieces:
        if isinstance(piece, str):
            before.append(piece)
            after.append(piece)
        else:
            there = True
            start, (opening, old, closing), rest = piece
            before.append(start + opening + old + closing + rest)
            after.append(start + opening + value + closing + rest)
    end = line_end if ended and pieces else ""
    text, expected = line_end.join(before) + end, line_end.join(after) + end
    if not there:
        expected = write(text, DOTENV, NAME, value)
        assert expected.startswith(text)
        assert expected[len(text) :].strip() == f"{NAME}={value}"
    assert write(text, DOTENV, NAME, value) == expected
    assert read(expected, DOTENV, NAME) == value


@given(text=st.text(st.sampled_from(f"{NAME}AB= \t\n\r'\"`#\\")), value=values)
@example(text=f'A="x"\'\n{NAME}=', value="v")
def test_any_text_is_refused_or_edited_so_that_it_can_be_edited_back(text: str, value: str) -> None:
    try:
        once = write(text, DOTENV, "A", value)
    except NotUnderstood:
        return
    assert read(once, DOTENV, "A") == value
    assert read(once, DOTENV, "B") == read(text, DOTENV, "B")
    assert write(write(once, DOTENV, "A", "other"), DOTENV, "A", value) == once


# JSON


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", '{\n  "K": "new"\n}\n', id="an empty file"),
        pytest.param("{}", '{"K": "new"}', id="an empty object"),
        pytest.param('{"K":"old"}', '{"K":"new"}', id="compact"),
        pytest.param('{"K": null}\n', '{"K": "new"}\n', id="null"),
        pytest.param('{"a":1}', '{"a":1,"K":"new"}', id="put at the end, compactly"),
        pytest.param(
            '{\n    "a": 1,\n    "b": [\n        2\n    ]\n}\n',
            '{\n    "a": 1,\n    "b": [\n        2\n    ],\n    "K": "new"\n}\n',
            id="put at the end, with the indentation",
        ),
        pytest.param('{\r\n\t"a" : 1\r\n}', '{\r\n\t"a" : 1,\r\n\t"K" : "new"\r\n}', id="put after one"),
        pytest.param('{"x": {"K": "other"}, "K": "old"}', '{"x": {"K": "other"}, "K": "new"}', id="deeper down"),
        pytest.param('{"K": "a", "K": "b"}', '{"K": "new", "K": "new"}', id="twice: both"),
        pytest.param('{"a": 1, "a": 2, "K": "o"}', '{"a": 1, "a": 2, "K": "new"}', id="another twice: both stay"),
        pytest.param('{"\\u004b": "old"}', '{"\\u004b": "new"}', id="an escaped name"),
        pytest.param('{"n": 1.0E+05, "K": "o"}', '{"n": 1.0E+05, "K": "new"}', id="a number's own form"),
        pytest.param(
            '{"n": ' + "7" * 5000 + ', "K": "o"}', '{"n": ' + "7" * 5000 + ', "K": "new"}', id="a very long number"
        ),
        pytest.param('\ufeff{"K": "o"}', '\ufeff{"K": "new"}', id="a byte order mark"),
        pytest.param('{"a": "\\ud800 K", "K": "\\"}"}', '{"a": "\\ud800 K", "K": "new"}', id="escapes"),
    ],
)
def test_a_json_entry_is_replaced_in_place(before: str, after: str) -> None:
    assert write(before, JSON, "K", "new") == after
    assert read(after, JSON, "K") == "new"


@pytest.mark.parametrize(
    "text",
    ["[]", '"K"', "{", '{"K": "o",}', '{"K": "o"} x', "{'K': 'o'}", '{"K": NaN}', "// c\n{}", "[" * 100_000, '{"K": }'],
)
def test_what_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood, match="it is not a JSON object"):
        read(text, JSON, "K")
    with pytest.raises(NotUnderstood, match="it is not a JSON object"):
        write(text, JSON, "K", "new")


@pytest.mark.parametrize("value", ["1", "true", "{}", '["old"]'])
def test_an_entry_that_is_not_a_text_is_not_overwritten(value: str) -> None:
    with pytest.raises(NotUnderstood, match="its entry K is not a text"):
        write(f'{{"K": {value}}}', JSON, "K", "new")


white = st.text(st.sampled_from(" \t\n\r"), max_size=3)
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
documents: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)
values_of_others = st.one_of(
    numbers,
    st.tuples(documents, st.sampled_from([None, 2]), st.booleans()).map(lambda d: json.dumps(d[0], indent=d[1])),
)
member_names = st.one_of(st.just(NAME), st.sampled_from(["a", "b", "neon_api_key"]), st.text(max_size=3))


@given(
    members=st.lists(
        st.tuples(white, member_names, white, white, values_of_others, white, st.text(max_size=5)), max_size=6
    ),
    edges=st.tuples(white, white, white),
    value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_only_the_values_of_a_json_entry_change(
    members: list[tuple[str, str, str, str, str, str, str]], edges: tuple[str, str, str], value: str
) -> None:
    def text_with(own: str | None) -> str:
        parts = [
            f"{w1}{json.dumps(name)}{w2}:{w3}{(json.dumps(old) if own is None else own) if name == NAME else other}{w4}"
            for w1, name, w2, w3, other, w4, old in members
        ]
        return f"{edges[0]}{{{','.join(parts) if parts else edges[1]}}}{edges[2]}"

    before = text_with(None)
    after = write(before, JSON, NAME, value)
    if any(name == NAME for _, name, *_ in members):
        assert after == text_with(json.dumps(value))
    else:
        # One piece more, and what is around it is what was there.
        common = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        assert after.endswith(before[common:])
        assert json.loads(after) == json.loads(before) | {NAME: value}
    assert read(after, JSON, NAME) == value


# raw


@given(text=st.text(), value=values)
def test_a_raw_file_is_the_secret_and_nothing_else(text: str, value: str) -> None:
    assert write(text, RAW, None, value) == value
    assert read(f"{value}\n", RAW, None) == value


# Through the file, as bytes, and as another reader takes it

plain_words = st.text(st.sampled_from("abcXYZ019_-.:/@%+,"), max_size=12)
inside_quotes = st.text(st.sampled_from(f"abc =#:{{}}[]\n\t{NAME}äß€"), max_size=20)
shell_values = st.one_of(
    plain_words,
    inside_quotes.map("'{}'".format),
    inside_quotes.map('"{}"'.format),
    st.tuples(plain_words, inside_quotes).map(lambda both: f'"{both[1]}"{both[0]}' if "\n" not in both[1] else "''"),
)
shell_lines = st.one_of(
    st.sampled_from(["", "  ", "# a comment", f"#{NAME}=commented out", f"# export {NAME}='x'", "export PATH"]),
    st.tuples(
        st.sampled_from(["", "export ", "  "]),
        st.sampled_from(["A", "B", f"{NAME}_OLD", f"MY_{NAME}", NAME]),
        shell_values,
        st.sampled_from(["", " ", " # why", " #"]),
    ).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}{parts[3]}"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(shell_lines, max_size=6), ended=st.booleans(), value=values)
def test_for_a_shell_nothing_but_the_entry_changes(lines: list[str], ended: bool, value: str, tmp_path: Path) -> None:
    names = ["A", "B", f"{NAME}_OLD", f"MY_{NAME}", NAME]

    def as_a_shell(content: bytes) -> list[bytes]:
        file = tmp_path / "env"
        file.write_bytes(content)
        shown = " ".join(f'"${name}"' for name in names)
        script = f". {shlex.quote(str(file))}; printf '%s\\0' {shown}"
        ended = subprocess.run(["sh", "-c", script], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})
        return ended.stdout.split(b"\0")

    before = ("\n".join(lines) + ("\n" if ended else "")).encode()
    try:
        after = write(before.decode(), DOTENV, NAME, value).encode()
    except NotUnderstood:
        return
    assert as_a_shell(after)[:-2] == as_a_shell(before)[:-2]
    assert as_a_shell(after)[-2] == value.encode()


BYTES = {
    DOTENV: [
        *(f"{NAME}=OLD\n", f"\ufeff{NAME}=OLD\r\nA=1\r\n", f"A=1\n{NAME}='OLD' # why", f"export {NAME} =\tOLD \n"),
        *(f'A="{NAME}=x\n"\r\n{NAME}="OLD"\r\n', f"{NAME}_2=1\n#{NAME}=2\nX{NAME}=3\n{NAME}=OLD\n", f"{NAME}=OLD"),
        *(f"A=\u2028\x0b\x85\n{NAME}=OLD\x20\n\n\n", f"Ü=ä\t\n{NAME}=`OLD`\n", f"{NAME}=OLD\nB=a\rb\n"),
    ],
    JSON: [
        *(f'{{"{NAME}":"OLD"}}', f'\ufeff {{ "{NAME}" :\t"OLD" }}\r\n', f'{{"n": 1e400, "{NAME}": "OLD", "m": -0.0}}'),
        *(f'{{"i": 12345678901234567890, "x": {{"{NAME}": 1}}, "{NAME}": "OLD"}}', f'{{"a":1,"a":2,"{NAME}":"OLD"}}'),
        *(
            f'{{\n\t"u": "\\u00e4\\ud83d\\ude00\\/",\n\t"{NAME}": "OLD",\n\t"l": [ ]\n}}\n',
            f'{{"{NAME}":"OLD","":null}}\n\n',
        ),
    ],
}


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in BYTES.items() for text in texts])
def test_a_file_is_the_same_byte_for_byte_but_for_the_entry_and_can_be_put_back(
    form: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    before = text.encode()
    file.write_bytes(before)
    sink = a_file_sink(file, format=form, variable=NAME)
    secret = deliver(sink)
    assert file.read_bytes() == before.replace(b"OLD", secret.reveal().encode())
    once = file.read_bytes()
    deliver(sink, secret)
    assert file.read_bytes() == once
    deliver(sink, Secret("OLD"))
    assert file.read_bytes() == before


REFUSED = [
    ("A dotenv file has a quotation that is never closed", DOTENV, f'A="x\n{NAME}=old\n'.encode()),
    ("A JSON file has a comment in it", JSON, b'{\n  // mine\n  "K": "old"\n}'),
    ("A JSON file is a list", JSON, b'["old"]'),
    ("The entry of a JSON file is an object", JSON, f'{{"{NAME}": {{"value": "old"}}}}'.encode()),
    ("A JSON file is a nest of 100,000 brackets", JSON, b'{"a": ' + b"[" * 100_000),
    ("A dotenv file is not UTF-8", DOTENV, b"A=\xff\n"),
    ("A dotenv file is larger than 1 MiB", DOTENV, b"A=1\n" * 300_000),
]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        pytest.param(
            form,
            content,
            id=fault,
            marks=pytest.mark.fault("Input", fault, "The file stays as it is, and no key is minted for it."),
        )
        for fault, form, content in REFUSED
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone_with_a_word(
    form: str, content: bytes, tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    """Already the check says so, which comes before a key is created."""
    file = tmp_path / "file"
    file.write_bytes(content)
    sink = a_file_sink(file, format=form, variable=NAME)
    failed = failure_of(sink)
    assert isinstance(failed, NeedsPerson)
    with pytest.raises(NeedsPerson) as checked:
        sink.check()
    assert str(checked.value) == str(failed)
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]
    person_sees(str(failed))
