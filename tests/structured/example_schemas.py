"""Schemas as applications ask for them: the subjects of OpenAI's guide to structured outputs, written anew."""

from typing import Any

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
WHOLE = {"type": "integer"}
YES_NO = {"type": "boolean"}


def record(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def many(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def maybe(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


EXAMPLES: dict[str, dict[str, Any]] = {
    "calendar event": record(name=TEXT, date={"type": "string", "format": "date"}, participants=many(TEXT)),
    "solved equation": record(steps=many(record(explanation=TEXT, output=TEXT)), final_answer=TEXT),
    "research paper": record(title=TEXT, authors=many(TEXT), abstract=TEXT, keywords=many(TEXT, maxItems=5)),
    "moderation": record(
        is_violating=YES_NO, category=one_of("violence", "sexual", "self_harm"), explanation=maybe("string")
    ),
    "user interface": {
        **record(
            type=one_of("div", "button", "header", "section", "field", "form"),
            label=TEXT,
            children=many({"$ref": "#"}),
            attributes=many(record(name=TEXT, value=TEXT)),
        )
    },
    "linked list": {
        **record(linked_list={"$ref": "#/$defs/node"}),
        "$defs": {"node": record(value=NUMBER, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})},
    },
    "lesson": {
        **record(steps=many({"$ref": "#/$defs/step"}), final_answer=TEXT),
        "$defs": {"step": record(explanation=TEXT, output=TEXT)},
    },
    "user or address": record(
        item={
            "anyOf": [
                record(kind={"const": "user"}, name=TEXT, age=WHOLE),
                record(kind={"const": "address"}, number=TEXT, street=TEXT, city=TEXT),
            ]
        }
    ),
    "weather request": record(location=TEXT, unit={"type": ["string", "null"], "enum": ["C", "F", None]}),
    "order query": record(
        table_name=one_of("orders"),
        columns=many(one_of("id", "status", "expected_delivery_date", "delivered_at"), minItems=1),
        conditions=many(
            record(column=TEXT, operator=one_of("=", ">", "<", "<=", ">=", "!="), value={"type": ["string", "number"]})
        ),
        order_by=one_of("asc", "desc"),
    ),
    "product search": record(
        category=one_of("shoes", "jackets", "tops", "bottoms"),
        subcategory=one_of("sneakers", "boots", "coat", "t-shirt", "jeans"),
        color=one_of("black", "white", "brown", "red"),
    ),
    "entities": record(attributes=many(TEXT), colors=many(TEXT), animals=many(TEXT)),
    "article summary": record(
        invented_year=WHOLE,
        summary={"type": "string", "maxLength": 120},
        inventors=many(TEXT, minItems=1, maxItems=3),
        concepts=many(record(title=TEXT, description=TEXT), maxItems=2),
        description=TEXT,
    ),
    "sentiment": record(
        label=one_of("positive", "neutral", "negative"), score={"type": "number", "minimum": 0, "maximum": 1}
    ),
    "question in an exam": record(
        question=TEXT, options=many(TEXT, minItems=4, maxItems=4), right={"type": "integer", "minimum": 0, "maximum": 3}
    ),
    "invoice": record(
        number={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        lines=many(record(article=TEXT, amount={"type": "integer", "minimum": 1}, price=NUMBER), minItems=1),
        total={"type": "number", "exclusiveMinimum": 0},
    ),
    "username": record(
        username={"type": "string", "pattern": "^@[a-zA-Z0-9_]+$"}, email={"type": "string", "format": "email"}
    ),
    "thermostat": record(
        temperature={"type": "number", "minimum": -130, "maximum": 130}, scale={"type": "number", "multipleOf": 0.5}
    ),
    "recipe": record(
        title=TEXT,
        minutes={"type": "integer", "minimum": 1, "maximum": 600},
        vegan=YES_NO,
        ingredients=many(record(name=TEXT, grams=maybe("number")), minItems=1, maxItems=4),
        steps=many(TEXT, maxItems=4),
    ),
    "meeting times": record(
        start={"type": "string", "format": "date-time"},
        day={"type": "string", "format": "date"},
        at={"type": "string", "format": "time"},
    ),
    "hosts": record(
        id={"type": "string", "format": "uuid"},
        v4={"type": "string", "format": "ipv4"},
        name={"type": "string", "format": "hostname"},
    ),
    "translation": record(language=one_of("de", "fr", "it"), text=TEXT, alternatives=many(TEXT, maxItems=2)),
    "route": record(
        points=many({"type": "array", "prefixItems": [NUMBER, NUMBER], "items": False, "minItems": 2}, maxItems=3)
    ),
    "word counts": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
    "settings": {
        "type": "object",
        "properties": {"theme": one_of("light", "dark"), "size": {"type": "integer", "minimum": 8, "maximum": 32}},
        "additionalProperties": False,
    },
    "refusal or answer": {"anyOf": [record(answer=TEXT), record(refusal=TEXT)]},
    "list of numbers": many(WHOLE, minItems=1, maxItems=6),
    "tool call": record(name=one_of("search", "open"), arguments={"anyOf": [record(query=TEXT), record(page=WHOLE)]}),
    "person with an address": record(
        person=record(
            first=TEXT,
            last=TEXT,
            address=record(street=TEXT, city=TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"}),
        )
    ),
    "inherited": {
        "allOf": [
            {"type": "object", "properties": {"a": WHOLE}, "required": ["a"]},
            {"type": "object", "properties": {"b": TEXT}, "required": ["b"]},
        ]
    },
    "yes or no": YES_NO,
    "nothing": {"type": "null"},
}
