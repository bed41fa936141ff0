"""Schemas and prompts for crates/grammar/tests/schemas.json: `python dev/grammar_schemas.py`, with pydantic 2.

Written by hand, but for those of pydantic's models. Each holds what is open within bounds, so that answers end.
"""

import json
import pathlib
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Literal, Optional, Union
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

rows = []


def add(name, prompt, schema):
    rows.append({"name": name, "prompt": prompt, "schema": schema})


def obj(required=None, closed=True, **properties):
    """An object with all properties required, closed, as OpenAI's strict mode wants them."""
    out = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    return out | {"additionalProperties": False} if closed else out


def text(n=24, **more):
    return {"type": "string", "maxLength": n, **more}


def arr(items, least=0, most=3, **more):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


def one_of(*some):
    return {"type": "string", "enum": list(some)}


def null(schema):
    return {"anyOf": [schema, {"type": "null"}]}


INT = {"type": "integer"}
NUM = {"type": "number"}
BOOL = {"type": "boolean"}


def upto(most, least=0):
    return {"type": "integer", "minimum": least, "maximum": most}


# Single values
add("string", "Name a color.", text())
add("string-empty", "Say nothing.", text(0))
add("string-exact", "Give a three-letter code.", text(3, minLength=3))
add("string-long", "Tell a short story.", text(60, minLength=20))
add("integer", "How many legs does a spider have?", INT)
add("number", "What is pi?", NUM)
add("boolean", "Is the sky blue?", BOOL)
add("null", "Say null.", {"type": "null"})
add("true-only", "Is water wet?", {"const": True})
add("enum-strings", "Is it red, green or blue?", one_of("red", "green", "blue"))
add("enum-mixed", "Choose one.", {"enum": ["a", 1, 2.5, None, True, ["x", 1], {"k": "v"}]})
add("enum-numbers", "Choose a size.", {"type": "integer", "enum": [8, 16, 32, 64]})
add("enum-floats", "Choose a rate.", {"enum": [0.1, 0.25, 1.5, -2.75]})
add("enum-prefixes", "Choose a version.", one_of("1", "1.0", "1.0.1", "1.0.10", "10"))
add("enum-one", "Choose.", one_of("only"))
add("enum-typed", "Choose.", {"type": ["string", "null"], "enum": ["a", "b", None, 3]})
add("enum-long", "Which month is it?", one_of(*"January February March April May June July August September October November December".split()))
add("const-string", "Say hello.", {"const": "hello, world"})
add("const-number", "Say the answer.", {"const": 42})
add("const-negative", "Say it.", {"const": -1.5})
add("const-object", "Say it.", {"const": {"a": [1, {"b": None}], "c": "d"}})
add("const-array", "Say it.", {"const": [1, "two", False]})
add("const-null", "Say it.", {"const": None})
add("const-escapes", "Say it.", {"const": "a \"quoted\" back\\slash\n\ttab /slash"})
add("const-control", "Say it.", {"const": "bell \u0007 and unit \u001f"})
add("const-unicode", "Say it.", {"const": "Grüße, 世界 🌍 — “so”"})
add("const-empty", "Say it.", {"const": ""})

# Numbers
add("int-range", "Rate it from 1 to 10.", upto(10, 1))
add("int-negative", "How cold is it?", upto(-1, -40))
add("int-across", "How warm is it?", upto(45, -30))
add("int-exclusive", "Pick a number between 0 and 100.", {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 100})
add("int-min", "Pick a positive number.", {"type": "integer", "minimum": 1})
add("int-max", "Pick a negative number.", {"type": "integer", "maximum": -1})
add("int-large", "When was that, in milliseconds?", {"type": "integer", "minimum": 1_500_000_000_000, "maximum": 1_900_000_000_000})
add("int-multiple", "Count in fives.", {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000})
add("int-multiple-7", "Count in sevens.", {"type": "integer", "multipleOf": 7, "minimum": -700, "maximum": 700})
add("int-float-bounds", "Pick.", {"type": "integer", "minimum": 0.5, "maximum": 9.5})
add("num-range", "What is the probability?", {"type": "number", "minimum": 0, "maximum": 1})
add("num-exclusive", "What is the probability?", {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
add("num-negative", "What is the latitude?", {"type": "number", "minimum": -90, "maximum": 90})
add("num-fine", "Pick.", {"type": "number", "minimum": 0.125, "maximum": 0.375})
add("num-min", "How much?", {"type": "number", "minimum": 0})
add("num-exclusive-min", "How much?", {"type": "number", "exclusiveMinimum": 0})
add("num-max", "How little?", {"type": "number", "maximum": 0})
add("num-multiple", "Price, in halves.", {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 100})
add("num-draft4", "Pick.", {"type": "number", "minimum": 5, "maximum": 6})
add("num-cents", "Price?", {"type": "number", "multipleOf": 0.25})

# Strings
for name, prompt in [
    ("date", "When was the moon landing?"), ("time", "When is lunch?"), ("date-time", "When did it happen?"),
    ("duration", "How long does it take?"), ("email", "Make up an email address."), ("hostname", "Name a host."),
    ("ipv4", "Give an address."), ("ipv6", "Give an IPv6 address."), ("uuid", "Give a UUID."),
    ("uri", "Give a URL."), ("uri-reference", "Give a link."), ("json-pointer", "Point to it."),
    ("iri", "Give a link."), ("idn-email", "Write an address."),
]:
    add(f"format-{name}", prompt, {"type": "string", "format": name})
add("format-unknown", "Give a password.", text(16, format="password"))
add("format-nullable", "When, if ever?", {"type": ["string", "null"], "format": "date"})
add("format-untyped", "When?", obj(when={"type": ["string", "integer"], "format": "date", "maximum": 9999, "minimum": 0}))
for name, pattern in [
    ("zip", r"^\d{5}(-\d{4})?$"), ("phone", r"^\+[1-9]\d{6,12}$"), ("hex", r"^#[0-9a-fA-F]{6}$"),
    ("slug", r"^[a-z0-9]+(-[a-z0-9]+){0,3}$"), ("semver", r"^\d{1,3}\.\d{1,3}\.\d{1,3}$"),
    ("plate", r"^[A-Z]{2,3} [A-Z]{1,2} \d{1,4}$"), ("sku", r"^SKU-[A-Z0-9]{4}$"), ("choice", r"^(low|medium|high)$"),
    ("unicode", r"^[äöüß]{2,5}$"), ("escape", r'^"[a-z\\/]{1,8}"$'), ("word", r"^\w{1,12}$"), ("iban", r"^DE\d{20}$"),
]:
    add(f"pattern-{name}", f"Give a {name}.", {"type": "string", "pattern": pattern})
add("pattern-search", "Give a code with a digit.", text(12, pattern=r"\d"))
add("pattern-begin", "A title that begins with The.", text(20, pattern="^The "))
add("pattern-length", "Give letters.", {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 9})
add("length-unicode", "Greet in Chinese.", {"type": "string", "minLength": 2, "maxLength": 6, "pattern": "^[\u4e00-\u9fff]+$"})

# Arrays
add("array-strings", "Name three fruits.", arr(text(), 3, 3))
add("array-empty", "Nothing.", arr(text(), 0, 0))
add("array-enum", "Pick toppings.", arr(one_of("cheese", "ham", "olives"), 1, 3))
add("array-ints", "Give lottery numbers.", arr(upto(49, 1), 6, 6))
add("array-bools", "Answer yes or no, twice.", arr(BOOL, 2, 2))
add("array-objects", "List two people.", arr(obj(name=text(), age=upto(120)), 1, 2))
add("array-nested", "Give a small matrix.", arr(arr(upto(9), 2, 2), 2, 2))
add("array-min", "List at least one.", arr(text(8), 1, 4))
add("array-any-of", "Mix.", arr({"anyOf": [upto(9), text(5), {"type": "null"}]}, 2, 4))
add("tuple", "Give a name and an age.", {"type": "array", "prefixItems": [text(), upto(120)], "items": False, "minItems": 2})
add("tuple-open", "Give a pair, then flags.", {"type": "array", "prefixItems": [text(6), NUM], "items": BOOL, "minItems": 2, "maxItems": 4})
add("tuple-optional", "Coordinates.", {"type": "array", "prefixItems": [upto(9), upto(9), upto(9)], "items": False})
add("tuple-draft7", "A pair.", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [text(6), upto(9)], "additionalItems": False, "minItems": 2, "maxItems": 2})
add("array-unique-one", "One tag.", arr(text(8), 1, 1, uniqueItems=True))
add("array-contains-none", "Tags.", arr(text(8), 0, 3, uniqueItems=False))
add("array-of-dates", "Two holidays.", arr({"type": "string", "format": "date"}, 2, 2))
add("array-of-tuples", "Points.", arr({"type": "array", "prefixItems": [upto(9), upto(9)], "items": False, "minItems": 2}, 1, 3))

# Objects
add("object-flat", "Describe a person.", obj(name=text(), age=upto(120), email={"type": "string", "format": "email"}))
add("object-optional", "Describe a book.", obj(["title"], title=text(), author=text(), year=upto(2030, 1400)))
add("object-all-optional", "Describe a pet.", obj([], name=text(), kind=one_of("cat", "dog"), age=upto(30)))
add("object-open", "Describe a house.", obj(["rooms"], False, rooms=upto(20), garden=BOOL))
add("object-nested", "Describe a company.", obj(name=text(), address=obj(street=text(), city=text(), zip={"type": "string", "pattern": "^[0-9]{5}$"})))
add("object-deep", "Go deep.", obj(a=obj(b=obj(c=obj(d=obj(e=upto(9)))))))
add("object-empty", "Nothing.", {"type": "object", "additionalProperties": False})
add("object-empty-names", "Nothing.", {"type": "object", "properties": {}, "additionalProperties": False})
add("object-nullable", "Describe a user.", obj(name=text(), nickname=null(text(12)), age={"type": ["integer", "null"], "minimum": 0, "maximum": 120}))
add("object-map", "Scores by name.", {"type": "object", "additionalProperties": upto(100), "maxProperties": 3})
add("object-map-min", "One score.", {"type": "object", "additionalProperties": upto(100), "minProperties": 1, "maxProperties": 2})
add("object-pattern", "Environment variables.", {"type": "object", "patternProperties": {"^[A-Z_]{1,12}$": text(12)}, "additionalProperties": False, "maxProperties": 3})
add("object-pattern-mixed", "Headers.", {"type": "object", "properties": {"host": text(16)}, "patternProperties": {"^x-[a-z]{1,8}$": text(8)}, "required": ["host"], "additionalProperties": False})
add("object-names-enum", "Hours by day.", {"type": "object", "propertyNames": one_of("mon", "tue", "wed"), "additionalProperties": upto(24)})
add("object-names-pattern", "Prices by code.", {"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "additionalProperties": upto(99), "maxProperties": 3})
add("object-names-string", "Ages by name.", {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": upto(99), "maxProperties": 3})
add("object-min-one", "Either.", {"type": "object", "properties": {"a": upto(9), "b": upto(9)}, "minProperties": 1, "additionalProperties": False})
add("object-odd-keys", "Fill it in.", obj(**{"a b": upto(9), "ü": upto(9), "quote\"d": BOOL, "back\\slash": BOOL, "line\nend": BOOL, "": {"type": "null"}, "$ref": upto(9), "a/b~c": upto(9)}))
add("object-keyword-names", "Fill it in.", obj(**{"type": text(8), "properties": upto(9), "enum": upto(9), "items": arr(upto(9)), "allOf": BOOL}))
add("object-untyped", "A point.", {"properties": {"x": upto(9), "y": upto(9)}, "required": ["x", "y"]})
add("object-required-unnamed", "Fill it in.", {"type": "object", "required": ["id"], "properties": {"name": text(8)}, "additionalProperties": upto(9), "maxProperties": 3} | {"required": ["id", "name"]})
add("object-forbidden", "Fill it in.", {"type": "object", "properties": {"yes": BOOL, "no": False}, "required": ["yes"]})
add("object-many", "Fill in the form.", obj(**{f"field_{i}": upto(9) for i in range(20)}))
add("object-many-optional", "Fill in some of the form.", obj([], **{f"field_{i}": upto(9) for i in range(12)}))
add("object-escaped-free-keys", "A map with one name taken.", {"type": "object", "properties": {"a": upto(9)}, "additionalProperties": BOOL, "required": ["a"], "maxProperties": 3})
add("annotations", "A name.", {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/n", "title": "T", "description": "d", "$comment": "c", "type": "object", "properties": {"n": text(8, default="x", examples=["y"], deprecated=True, readOnly=True)}, "required": ["n"]})
add("openapi-words", "A pet.", {"type": "object", "nullable": True, "xml": {"name": "Pet"}, "properties": {"id": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 9999, "example": 10}, "status": one_of("available", "sold")}, "required": ["id", "status"], "discriminator": {"propertyName": "id"}})

# Choices
add("any-of-types", "A number or a word.", {"anyOf": [upto(99), text(9)]})
add("any-of-objects", "A cat or a dog.", {"anyOf": [obj(meow=BOOL), obj(bark=BOOL)]})
add("any-of-overlap", "A word.", {"anyOf": [text(3), text(9, minLength=2)]})
add("any-of-base", "Contact by mail or by phone.", {"type": "object", "properties": {"mail": text(12), "phone": text(12)}, "additionalProperties": False, "anyOf": [{"required": ["mail"]}, {"required": ["phone"]}]})
add("one-of-types", "A flag or a number.", {"oneOf": [BOOL, upto(99)]})
add("one-of-const", "A shape.", {"oneOf": [obj(kind={"const": "circle"}, r=upto(9)), obj(kind={"const": "square"}, side=upto(9))]})
add("one-of-refs", "A shape.", {"oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/s"}], "$defs": {"c": obj(kind={"const": "circle"}, r=upto(9)), "s": obj(kind={"const": "square"}, side=upto(9))}})
add("one-of-required", "A card or a transfer.", {"oneOf": [obj(None, False, card={"type": "string", "pattern": "^[0-9]{16}$"}), obj(None, False, iban=text(22))]})
add("one-of-const-titles", "Pick.", {"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]})
add("one-of-ranges", "Pick.", {"oneOf": [{"type": "integer", "maximum": 10, "minimum": 1}, {"type": "integer", "exclusiveMinimum": 10, "maximum": 20}]})
add("one-of-nested", "Pick.", {"oneOf": [{"type": "null"}, {"anyOf": [BOOL, upto(9)]}, arr(upto(9))]})
add("all-of-merge", "A named point.", {"allOf": [{"type": "object", "properties": {"x": upto(9), "y": upto(9)}, "required": ["x", "y"]}, {"type": "object", "properties": {"name": text(8)}, "required": ["name"]}, {"maxProperties": 3}]})
add("all-of-one", "A name.", {"allOf": [{"$ref": "#/definitions/n"}], "description": "as pydantic 1 wrote it", "definitions": {"n": text(9, minLength=1)}})
add("all-of-range", "A number.", {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]})
add("all-of-pattern", "A word.", {"allOf": [{"type": "string", "pattern": "^[a-z]+$"}, {"maxLength": 6, "minLength": 3}]})
add("all-of-inherit", "An employee.", {"allOf": [{"$ref": "#/$defs/person"}, {"properties": {"salary": upto(99999)}, "required": ["salary"]}], "maxProperties": 2, "$defs": {"person": {"type": "object", "properties": {"name": text(12)}, "required": ["name"]}}})
add("any-of-in-array", "Events.", arr({"anyOf": [obj(t={"const": "click"}, x=upto(9)), obj(t={"const": "key"}, key=text(3))]}, 1, 2))
add("type-list", "A value.", {"type": ["integer", "string", "null"], "maxLength": 8, "minimum": 0, "maximum": 99})
add("any-of-null-ref", "Maybe a point.", {"anyOf": [{"$ref": "#/$defs/p"}, {"type": "null"}], "$defs": {"p": obj(x=upto(9))}})

# References
add("ref-defs", "Two addresses.", {**obj(home={"$ref": "#/$defs/address"}, work={"$ref": "#/$defs/address"}), "$defs": {"address": obj(street=text(16), city=text(12))}})
add("ref-definitions", "An address.", {**obj(home={"$ref": "#/definitions/address"}), "definitions": {"address": obj(city=text(12))}})
add("ref-chain", "A value.", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": upto(99)}})
add("ref-sibling", "A number.", {**obj(n={"$ref": "#/$defs/n", "maximum": 5, "description": "small"}), "$defs": {"n": {"type": "integer", "minimum": 0}}})
add("ref-anchor", "A number.", {**obj(n={"$ref": "#num"}), "$defs": {"x": {"$anchor": "num", **upto(9)}}})
add("ref-escaped", "A number.", {**obj(n={"$ref": "#/$defs/a~1b%20c"}), "$defs": {"a/b c": upto(9)}})
add("ref-into-properties", "Twice.", obj(a=upto(9), b={"$ref": "#/properties/a"}))
add("tree", "A small tree.", {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"value": upto(9), "children": arr({"$ref": "#/$defs/node"}, 0, 2)}, "required": ["value"], "additionalProperties": False}}})
add("list-linked", "A short list.", {**obj(value=upto(9), next={"anyOf": [{"$ref": "#"}, {"type": "null"}]})})
add("expression", "1 + 2", {"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": [upto(9), obj(op=one_of("+", "*"), args=arr({"$ref": "#/$defs/e"}, 2, 2))]}}})
add("mutual", "A file system.", {"$ref": "#/$defs/dir", "$defs": {"dir": obj(name=text(8), entries=arr({"anyOf": [{"$ref": "#/$defs/dir"}, {"$ref": "#/$defs/file"}]}, 0, 2)), "file": obj(name=text(8), size=upto(999))}})
add("endless-cut", "A person.", {"type": "object", "properties": {"name": text(8), "clone": {"$ref": "#/$defs/endless"}}, "required": ["name"], "$defs": {"endless": {"type": "object", "properties": {"again": {"$ref": "#/$defs/endless"}}, "required": ["again"]}}})

# As zod and OpenAI write them
add("zod-user", "A user.", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"id": {"type": "string", "format": "uuid"}, "name": {"type": "string", "minLength": 1, "maxLength": 20}, "role": {"type": "string", "enum": ["admin", "user"]}, "age": {"type": "integer", "exclusiveMinimum": 0, "maximum": 150}}, "required": ["id", "name", "role"], "additionalProperties": False})
add("zod-record", "Scores.", {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9007199254740991}, "maxProperties": 2})
add("zod-record-enum", "Scores.", {"type": "object", "propertyNames": one_of("a", "b"), "additionalProperties": upto(9), "required": ["a", "b"]})
add("zod-union", "A result.", {"anyOf": [obj(ok={"type": "boolean", "const": True}, value=text(12)), obj(ok={"type": "boolean", "const": False}, error=text(12))]})
add("zod-discriminated", "An event.", {"oneOf": [obj(type={"type": "string", "const": "start"}, at={"type": "string", "format": "date-time"}), obj(type={"type": "string", "const": "stop"}, code=upto(255))]})
add("zod-email", "An address.", {"type": "string", "format": "email", "pattern": r"^(?:[a-z0-9_+-]{1,10})@(?:[a-z0-9]{1,10}\.)[a-z]{2,4}$"})
add("zod-tuple", "A pair.", {"type": "array", "prefixItems": [text(8), {"type": "number"}], "items": {"type": "boolean"}, "maxItems": 3, "minItems": 2})
add("openai-steps", "Solve 8x + 7 = -23.", {**obj(steps=arr({"$ref": "#/$defs/step"}, 1, 2), final_answer=text(16)), "$defs": {"step": obj(explanation=text(32), output=text(24))}})
add("openai-ui", "A form.", {**obj(type=one_of("div", "button", "field"), label=text(12), children=arr({"$ref": "#"}, 0, 2), attributes=arr(obj(name=text(8), value=text(8)), 0, 1))})
add("openai-moderation", "Is this fine?", obj(is_violating=BOOL, category=null(one_of("violence", "sexual", "self_harm")), explanation_if_violating=null(text(24))))
add("openai-event", "Alice and Bob meet on Friday.", obj(name=text(16), date=text(12), participants=arr(text(10), 0, 3)))
add("openai-paper", "A paper.", obj(title=text(24), authors=arr(text(12), 1, 2), abstract=text(40), keywords=arr(text(8), 1, 3)))
add("openai-response-format", "Weather in Paris.", obj(location=text(16), unit=one_of("celsius", "fahrenheit"), temperature={"type": "number", "minimum": -60, "maximum": 60}))

# Of real life
add("tool-weather", "What is the weather in Oslo?", {"type": "object", "properties": {"location": text(20, description="City and country"), "unit": {"type": "string", "enum": ["c", "f"]}}, "required": ["location"]})
add("tool-search", "Search for cheap flights.", {"type": "object", "properties": {"query": text(30), "limit": {"type": "integer", "default": 10, "minimum": 1, "maximum": 50}, "lang": {"type": "string", "pattern": "^[a-z]{2}$"}}, "required": ["query"], "additionalProperties": False})
add("tool-mail", "Send Bob a mail.", obj(to=arr({"type": "string", "format": "email"}, 1, 2), subject=text(24), body=text(40), urgent=BOOL))
add("tool-sql", "All users.", obj(table=one_of("users", "orders"), columns=arr(one_of("id", "name", "total"), 1, 3), where=null(obj(column=text(8), op=one_of("=", "<", ">"), value={"type": ["string", "number"], "maxLength": 8, "minimum": 0, "maximum": 999})), limit=upto(100, 1)))
add("tool-call", "Add 2 and 3.", {"anyOf": [obj(name={"const": "add"}, arguments=obj(a=upto(99), b=upto(99))), obj(name={"const": "echo"}, arguments=obj(text=text(16)))]})
add("tool-calendar", "Lunch tomorrow.", obj(title=text(20), start={"type": "string", "format": "date-time"}, minutes={"type": "integer", "multipleOf": 15, "minimum": 15, "maximum": 240}, attendees=arr({"type": "string", "format": "email"}, 0, 1)))
add("tool-shell", "List files.", obj(command=arr(text(10), 1, 3), timeout=null(upto(600, 1))))
add("tool-none", "What time is it?", {"type": "object", "properties": {}, "required": []} | {"additionalProperties": False})
add("tool-filesystem", "Read a file.", obj(path={"type": "string", "pattern": "^/[a-z/.]{1,20}$"}, encoding=one_of("utf-8", "latin-1")))
add("invoice", "An invoice for two chairs.", obj(number={"type": "string", "pattern": "^INV-[0-9]{4}$"}, date={"type": "string", "format": "date"}, customer=obj(name=text(16), vat=null(text(12))), lines=arr(obj(text=text(16), quantity=upto(99, 1), price={"type": "number", "minimum": 0, "maximum": 9999}), 1, 2), currency=one_of("EUR", "USD", "GBP"), paid=BOOL))
add("receipt", "Milk and bread, 4.20.", obj(store=text(16), items=arr(obj(name=text(12), price={"type": "number", "minimum": 0, "maximum": 100}), 1, 2), total={"type": "number", "minimum": 0, "maximum": 1000}))
add("recipe", "Pancakes.", obj(title=text(20), servings=upto(12, 1), ingredients=arr(obj(name=text(12), amount={"type": "number", "exclusiveMinimum": 0, "maximum": 1000}, unit=one_of("g", "ml", "piece")), 1, 3), steps=arr(text(32), 1, 3)))
add("weather", "The weather in Rome.", obj(city=text(16), temperature={"type": "number", "minimum": -50, "maximum": 50}, condition=one_of("sunny", "cloudy", "rain", "snow"), wind=obj(speed=upto(120), direction=one_of("N", "E", "S", "W"))))
add("forecast", "The next days.", arr(obj(day=one_of("mon", "tue", "wed"), high=upto(45, -30), low=upto(45, -30)), 2, 3))
add("movie", "The Matrix.", obj(["title", "year"], title=text(24), year=upto(2030, 1900), rating={"type": "number", "minimum": 0, "maximum": 10}, genres=arr(one_of("action", "drama", "comedy"), 1, 2)))
add("resume", "A programmer.", obj(name=text(16), skills=arr(text(10), 1, 3), jobs=arr(obj(title=text(16), years=upto(40)), 0, 2)))
add("config-server", "A server on port 8080.", obj(host={"type": "string", "format": "hostname"}, port=upto(65535, 1), tls=BOOL, log=one_of("debug", "info", "warn", "error")))
add("config-docker", "A web service.", {"type": "object", "properties": {"image": text(16), "ports": arr({"type": "string", "pattern": "^[0-9]{2,5}:[0-9]{2,5}$"}, 0, 2), "environment": {"type": "object", "patternProperties": {"^[A-Z]{1,8}$": text(8)}, "additionalProperties": False, "maxProperties": 2}}, "required": ["image"], "additionalProperties": False})
add("config-package", "A package.", obj(["name", "version"], name={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,15}$"}, version={"type": "string", "pattern": r"^\d{1,2}\.\d{1,2}\.\d{1,2}$"}, private=BOOL, dependencies={"type": "object", "additionalProperties": text(8), "maxProperties": 2}))
add("config-ci", "Build and test.", obj(on=arr(one_of("push", "pull_request"), 1, 2), jobs=arr(obj(name=text(10), steps=arr(text(16), 1, 2)), 1, 2)))
add("geojson-point", "Where is Berlin?", obj(type={"const": "Point"}, coordinates={"type": "array", "prefixItems": [{"type": "number", "minimum": -180, "maximum": 180}, {"type": "number", "minimum": -90, "maximum": 90}], "items": False, "minItems": 2}))
add("geojson-feature", "A feature.", obj(type={"const": "Feature"}, geometry=null(obj(type={"const": "Point"}, coordinates=arr({"type": "number", "minimum": -90, "maximum": 90}, 2, 2))), properties=obj(name=text(12))))
add("color", "Orange.", {"anyOf": [{"type": "string", "pattern": "^#[0-9a-f]{6}$"}, obj(r=upto(255), g=upto(255), b=upto(255))]})
add("sentiment", "I love it!", obj(sentiment=one_of("positive", "neutral", "negative"), score={"type": "number", "minimum": -1, "maximum": 1}))
add("classification", "A spam mail.", obj(label=one_of("spam", "ham"), confidence={"type": "number", "minimum": 0, "maximum": 1}, reasons=arr(text(20), 0, 2)))
add("entities", "Marie Curie was born in Warsaw.", obj(entities=arr(obj(text=text(16), type=one_of("person", "place", "date")), 1, 2)))
add("translation", "Hello in three languages.", obj(de=text(16), fr=text(16), es=text(16)))
add("qa", "What is the capital of France?", obj(question=text(40), answer=text(20), sources=arr({"type": "string", "format": "uri"}, 0, 1)))
add("quiz", "A quiz.", obj(question=text(40), choices={"type": "array", "prefixItems": [text(10)] * 4, "items": False, "minItems": 4}, correct=upto(3)))
add("summary", "Summarize rain.", obj(title=text(20), points=arr(text(28), 2, 3)))
add("chat-message", "Say hi.", obj(role={"const": "assistant"}, content=null(text(32)), tool_calls=arr(obj(id={"type": "string", "pattern": "^call_[a-z0-9]{8}$"}, type={"const": "function"}), 0, 1)))
add("person-full", "A citizen.", obj(["first", "last", "born"], first=text(10), last=text(12), born={"type": "string", "format": "date"}, phones=arr({"type": "string", "pattern": r"^\+[0-9]{6,12}$"}, 0, 2), address=obj(["city"], street=text(16), city=text(12), country={"type": "string", "pattern": "^[A-Z]{2}$"})))
add("order", "An order.", obj(id={"type": "string", "format": "uuid"}, status=one_of("new", "paid", "shipped"), placed={"type": "string", "format": "date-time"}, total={"type": "number", "minimum": 0, "maximum": 9999}))
add("flight", "From Berlin to Rome.", obj(origin={"type": "string", "pattern": "^[A-Z]{3}$"}, destination={"type": "string", "pattern": "^[A-Z]{3}$"}, departs={"type": "string", "format": "date-time"}, seats=upto(9, 1), cabin=one_of("economy", "business")))
add("game-character", "A wizard.", obj(name=text(12), level=upto(20, 1), stats=obj(str=upto(20, 1), dex=upto(20, 1), int=upto(20, 1)), inventory=arr(text(12), 0, 2)))
add("chess-move", "Open the game.", {"type": "string", "pattern": "^(?:[a-h][1-8][a-h][1-8]|O-O|O-O-O)$"})
add("cron", "Every day at noon.", obj(minute={"anyOf": [upto(59), {"const": "*"}]}, hour={"anyOf": [upto(23), {"const": "*"}]}))
add("network", "A host.", obj(ip={"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}, mac={"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}))
add("music", "A song.", obj(title=text(16), bpm={"type": "number", "minimum": 40, "maximum": 220}, key={"type": "string", "pattern": "^[A-G](#|b)?m?$"}, tags=arr(text(8), 0, 2)))
add("bank", "Pay the rent.", obj(iban={"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,20}$"}, amount={"type": "number", "exclusiveMinimum": 0, "maximum": 5000}, purpose=text(20)))
add("survey", "Fill in.", arr({"oneOf": [obj(q={"const": "age"}, a=upto(120)), obj(q={"const": "name"}, a=text(10)), obj(q={"const": "happy"}, a=BOOL)]}, 1, 3))
add("diff", "A patch.", arr({"anyOf": [obj(op={"const": "add"}, path={"type": "string", "format": "json-pointer"}, value=upto(9)), obj(op={"const": "remove"}, path={"type": "string", "format": "json-pointer"})]}, 1, 2))
add("i18n", "Übersetze.", obj(größe=upto(9), 名前=text(8), emoji=one_of("😀", "😢", "🇩🇪")))
add("table", "A table.", obj(columns=arr(text(6), 2, 2), rows=arr(arr({"type": ["string", "integer", "null"], "maxLength": 6, "minimum": 0, "maximum": 99}, 2, 2), 1, 2)))
add("paging", "A page.", obj(items=arr(upto(99), 0, 3), next=null({"type": "string", "format": "uri"}), total=upto(999)))
add("health", "A patient.", obj(resourceType={"const": "Patient"}, gender=one_of("male", "female", "other", "unknown"), birthDate={"type": "string", "format": "date"}, active=BOOL))


# pydantic's own
class Color(str, Enum):
    red = "red"
    green = "green"


class Address(BaseModel):
    """Where someone lives."""

    street: str = Field(max_length=16)
    city: str = Field(max_length=12, description="without the country")
    zip: Optional[str] = Field(None, pattern="^[0-9]{5}$")


class User(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: UUID
    name: str = Field(min_length=1, max_length=20)
    age: int = Field(ge=0, le=120)
    joined: datetime
    born: Optional[date] = None
    address: Address
    tags: list[Annotated[str, Field(max_length=8)]] = Field(default_factory=list, max_length=2)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    pet: Union[Cat, Dog] = Field(discriminator="kind")


class Pets(BaseModel):
    pets: list[Union[Cat, Dog]] = Field(min_length=1, max_length=2)


class Paint(BaseModel):
    color: Color = Color.red
    coats: Literal[1, 2, 3]
    price: Annotated[float, Field(gt=0, lt=100)]


class Node(BaseModel):
    value: int = Field(ge=0, le=9)
    next: Optional["Node"] = None


class Point(BaseModel):
    xy: tuple[Annotated[int, Field(ge=0, le=9)], Annotated[int, Field(ge=0, le=9)]]


class Limits(BaseModel):
    limits: dict[Color, Annotated[int, Field(ge=0, le=9)]]


class Words(BaseModel):
    words: dict[Annotated[str, Field(pattern="^[a-z]{1,6}$")], bool] = Field(max_length=2)


class Even(BaseModel):
    n: int = Field(multiple_of=2, ge=0, le=100)
    either: Union[Annotated[int, Field(ge=0, le=9)], Annotated[str, Field(max_length=6)], None]


for model, prompt in [
    (Address, "Where is the town hall?"), (User, "A user who lives in Bern."), (Owner, "Who owns a cat?"),
    (Pets, "Which pets?"), (Paint, "Paint it green."), (Node, "A list."), (Point, "A point."),
    (Limits, "Limits by color."), (Words, "Words."), (Even, "An even number."), (Cat, "A cat."), (Dog, "A dog."),
]:
    add(f"pydantic-{model.__name__.lower()}", prompt, model.model_json_schema())

names = [row["name"] for row in rows]
assert len(set(names)) == len(names), "two schemas of one name"
path = pathlib.Path(__file__).parent.parent / "crates/grammar/tests/schemas.json"
lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
path.write_text(f"[\n{lines}\n]\n")
print(len(rows), "schemas")
