"""Templates see the row and nothing else, and come to an end: a bad one costs rows or the job, never the machine."""

from __future__ import annotations

import os
import time

import pytest

from dgbatch.errors import JobError, RowError
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.sandbox import MOST_CHARACTERS
from tests.runner.test_prompts import job

BIG = "ab c\n" * 200_000
COLUMNS = ["big", "n", "items"]
ROW = {"big": BIG, "n": 5, "items": [{"a": "x"}, {"a": "y"}]}


def render(template: str) -> str:
    return Renderer(job(template=template), COLUMNS).render("r", ROW, 0).messages[-1]["content"]


def refused(template: str) -> str:
    """What the row's error says; it must come in time."""
    started = time.process_time()
    with pytest.raises(RowError) as caught:
        render(template)
    assert time.process_time() - started < 20
    assert caught.value.code == "template_error"
    return caught.value.message


def grown(start: str, step: str, end: str) -> str:
    """A value made of itself sixty times over."""
    loop = f"{{% for i in range(60) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}) %}}{loop}{{{{ {end} }}}}"


STEPS, BITS, WIDTH, UNSAFE = "more than 2,000,000 steps", "more than 16,384 bits", "a width of five digits", "is unsafe"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", STEPS),
        ("{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}", STEPS),
        ("{% for i in range(99999) %}{{ range(99999)|sum }}{% endfor %}", STEPS),
        ("{% set l = range(99999)|list %}{% for i in l %}{{ 'x' in l }}{% endfor %}", STEPS),
        ("{% for i in range(99999) %}{% if big[1:] %}{% endif %}{% endfor %}", STEPS),
        ("{% for i in range(99999) %}" + "Z" * 1000 + "{% endfor %}", STEPS),
        ("{% set x %}{% for i in range(99999) %}" + "Z" * 1000 + "{% endfor %}{% endset %}", STEPS),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}", STEPS),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "recursion"),
        (grown("'aa'", "ns.x ~ ns.x", "ns.x"), STEPS),
        (grown("'aa'", "ns.x + ns.x", "ns.x"), STEPS),
        (grown("[1]", "[ns.x, ns.x]", "ns.x"), STEPS),
        (grown("(1,)", "(ns.x, ns.x)", "{ns.x: 1}"), STEPS),
        (grown("(1,)", "(ns.x, ns.x)", "{}[ns.x]"), STEPS),
        (grown("(1,)", "(ns.x, ns.x)", "ns.x == ns.x"), STEPS),
        (grown("3", "ns.x * ns.x", "ns.x"), BITS),
        (grown("(1,)", "(ns.x,)", "ns.x").replace("range(60)", "range(99999)"), "more than 100 deep"),
        ("{{ 'a' * 10**10 }}", STEPS),
        ("{{ [0] * 10**10 }}", STEPS),
        ("{{ [big] * 1000 }}", STEPS),
        ("{{ 10 ** (10 ** 10) }}", BITS),
        ("{{ 1|round(10**9, 'ceil') }}", BITS),
        ("{{ 'a'|center(10**10) }}", STEPS),
        ("{{ 'a'|center(width=10**10) }}", STEPS),
        ("{{ 'x'.ljust(10**10) }}", STEPS),
        ("{{ 'x'.zfill(10**10) }}", STEPS),
        ("{{ big|indent(10**6) }}", STEPS),
        ("{{ big|wordwrap(1, wrapstring=big) }}", STEPS),
        ("{{ [1]|batch(10**9, 0)|list }}", STEPS),
        ("{{ items|tojson(indent=10**9) }}", STEPS),
        ("{{ big|list }}", STEPS),
        ("{{ big.replace('', big) }}", STEPS),
        ("{{ big|replace(new=big, old='a') }}", STEPS),
        ("{{ big.join(big) }}", STEPS),
        ("{{ range(99999)|map('string')|join(big) }}", STEPS),
        ("{{ ([big] * 100)|join }}", STEPS),
        ("{{ '%999999999d' % 1 }}", WIDTH),
        ("{{ '%*d' % (999999999, 1) }}", WIDTH),
        ("{{ '%999999999d'|format(1) }}", WIDTH),
        ("{{ '{:999999999}'.format(1) }}", WIDTH),
        ("{{ '{:{w}}'.format(1, w=999999999) }}", WIDTH),
        ("{{ ('{0}' * 1000).format(big) }}", STEPS),
        ("{{ ('%(a)s' * 1000) % {'a': big} }}", STEPS),
        ("{{ '\t'.expandtabs(10**9) }}", UNSAFE),
        ("{{ n.to_bytes(10**9, 'big') }}", UNSAFE),
        ("{{ big.encode('punycode') }}", UNSAFE),
    ],
)
def test_template_without_an_end_costs_its_row(template, says):
    assert says in refused(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ big|attr('__class__') }}",
        "{{ cycler.__init__.__globals__.os.popen('touch hacked') }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ range.__call__ }}",
        "{{ [].__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__class__}'.format(n) }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ (big|attr('format')).__self__ }}",
        "{% set f = '{0.__class__}'.format %}{{ f(n) }}",
        "{{ items|map(attribute='__class__')|join }}",
        "{{ items.append(1) }}",
        "{{ items[0].update({}) }}",
    ],
)
def test_template_that_reaches_beyond_the_row_is_refused(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    refused(template)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "too deep or too large"),
        ("{% for i in items %}" * 30 + "x" + "{% endfor %}" * 30, "too deep or too large"),
        ("{{ 1" + "+1" * 20_000 + " }}", "too deep or too large"),
        ("{{ " + "9" * 6000 + " }}", "too deep or too large"),
        ("{{ big|urlize }}", "No filter named 'urlize'"),
        ("{{ big|random }}", "No filter named 'random'"),
        ("{% include '/etc/passwd' %}", "need other files"),
        ("{% import 'os' as os %}", "need other files"),
    ],
)
def test_template_that_cannot_be_compiled_is_a_job_error(template, says):
    with pytest.raises(JobError, match=r"prompt\.template: ") as caught:
        render(template)
    assert says in str(caught.value)


def test_text_up_to_what_a_context_holds_is_rendered():
    assert len(render("{{ big * 8 }}")) == 8 * len(BIG)
    assert 8 * len(BIG) < MOST_CHARACTERS < 9 * len(BIG)
    assert STEPS in refused("{{ big * 9 }}")


def test_each_row_has_the_whole_allowance():
    renderer = Renderer(job(template="{% for i in range(90000) %}{{ i % 2 }}{% endfor %}"), COLUMNS)
    lengths = {len(renderer.render("r", ROW, 0).messages[0]["content"]) for _ in range(15)}
    assert lengths == {90_000}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ n|default(100000000) }} {{ 'ab'|replace('a', 'b') }} {{ 'ab'|center(6) }}|", "5 bb   ab  |"),
        ("{{ '%.2f'|format(2.5) }} {{ '%s!' % 'x' }} {{ '{:>5}'.format(n) }} {{ 2**10 }}", "2.50 x!     5 1024"),
        ("{{ ['b', 'a']|sort|join(', ') }} {{ ', '.join(['a', 'b']) }} {{ 'a,b'.split(',')[1] }}", "a, b a, b b"),
        ("{{ n ~ 'x' ~ 1.5 ~ none }} {{ big[:5]|tojson }} {{ [1, 2][1:] }}", '5x1.5None "ab c\\n" [2]'),
        ("{% for i in items %}{{ loop.index }}/{{ loop.length }} {{ i.a }}{{ ', ' if not loop.last }}{% endfor %}",
         "1/2 x, 2/2 y"),
        ("{{ items|map(attribute='a')|join('+') }} {{ 'x' in 'xy' }} {{ 1 < n <= 5 }} {{ {n: 1} }}",
         "x+y True True {5: 1}"),
        ("{% macro q(x) %}<{{ x }}>{% endmacro %}{{ q('a') }}{% filter upper %}b{% endfilter %}", "<a>B"),
        ("{{ [1, [2]]|tojson(indent=1) }}", "[\n 1,\n [\n  2\n ]\n]"),
    ],
)  # fmt: skip
def test_everyday_templates_are_not_in_the_way_of_it(template, text):
    assert render(template) == text
