"""
Statements that the ORM writes once, for what every question and every request asks.

To put a query together costs Django ten times what SQLite needs to carry it out. A
statement of this module is put together at its first use; after that it is given its
values only. See docs/decisions/0005-prepared-statements.md.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db import connections
from django.db.models import Expression, Field, Model, QuerySet
from django.db.models.base import ModelState
from django.db.models.sql import InsertQuery, UpdateQuery

M = TypeVar("M", bound=Model)
R = TypeVar("R")

Row = tuple[Any, ...]
# Of a value, and the connection that it is for or comes from.
Conversion = Callable[[Any, Any], Any]
Results = tuple[tuple[int, Conversion], ...]
# A value's name, the type that is stored as it is, and how others are; or "", and the
# value itself.
Parameters = tuple[tuple[str, type | None, Any], ...]

# What fields of a kind store as it is.
PLAIN = {
    **dict.fromkeys(("AutoField", "BigAutoField", "BigIntegerField"), int),
    **dict.fromkeys(("IntegerField", "PositiveIntegerField"), int),
    **dict.fromkeys(("CharField", "TextField"), str),
    "PositiveBigIntegerField": int,
    "BooleanField": bool,
}


# These do what `store` does, a field's own way, at once for values of the usual type.
def _texts(store: Conversion) -> Conversion:
    def stored(value: Any, database: Any) -> Any:
        # A choice; a driver would ask it how it is to be stored.
        return str.__str__(value) if isinstance(value, str) else store(value, database)

    return stored


def _moments(store: Conversion) -> Conversion:
    def stored(value: Any, database: Any) -> Any:
        if type(value) is datetime and value.tzinfo is UTC:
            return str(value.replace(tzinfo=None))
        return store(value, database)

    return stored


def _keys(store: Conversion) -> Conversion:
    def stored(value: Any, database: Any) -> Any:
        return value.hex if type(value) is UUID else store(value, database)

    return stored


ON_SQLITE = {"DateTimeField": _moments, "UUIDField": _keys}


class Parameter(Expression):
    """Stands in a statement for a value that it is given by `name` each time."""

    def __init__(self, name: str, output_field: Field[Any, Any]) -> None:
        super().__init__(output_field=output_field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]


def given(model: type[Model], field: str, name: str = "") -> Parameter:
    """A value as `field` of `model` stores it, named like the field by default."""
    return Parameter(name or field, model._meta.get_field(field))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    A statement as one kind of database takes it.

    `direct` is the same for SQLite's own cursor, with parameters of its own, and empty
    elsewhere.
    """

    sql: str
    parameters: Parameters
    direct: str
    direct_parameters: Parameters
    results: Results

    def run(
        self, database: Any, values: dict[str, Any], take: Callable[[Any], R], end: str
    ) -> R:
        """What `take` makes of the cursor that has carried it out."""
        # What Django puts around a cursor costs more than most statements take.
        seen = database.force_debug_cursor or database.execute_wrappers
        if seen or not self.direct:
            parameters = _given(self.parameters, values, database)
            with database.cursor() as cursor:
                cursor.execute(self.sql + end, parameters)
                return take(cursor)
        if database.needs_rollback:
            database.validate_no_broken_transaction()
        if database.connection is None:
            database.ensure_connection()
        sql = self.direct + end
        parameters = _given(self.direct_parameters, values, database)
        execute = database.connection.execute
        try:
            made = execute(sql, parameters)
            found = take(made)
        except sqlite3.Error as exc:
            with database.wrap_database_errors:
                if not isinstance(exc, sqlite3.OperationalError):
                    raise
                made = database.in_turn(exc, partial(execute, sql, parameters))
                found = take(made)
        made.close()
        return found


def _given(parameters: Parameters, values: dict[str, Any], database: Any) -> list[Any]:
    given = []
    for name, plain, rest in parameters:
        if not name:
            given.append(rest)
            continue
        value = values[name]
        if value is not None and type(value) is not plain:
            value = rest(value, database)
        given.append(value)
    return given


_own = threading.local()


def _connected() -> Any:
    """This thread's connection. To find it, Django looks for an event loop first."""
    _own.database = connections["default"]
    return _own.database


class _Statement:
    """`build` is called at the first use, when all models are there."""

    def __init__(self) -> None:
        # A test may use another database than the last one did.
        self._written: dict[str, Written] = {}

    def _write(self, database: Any) -> tuple[str, Row, Results]:
        raise NotImplementedError

    def _put_together(self, database: Any) -> Written:
        sql, fixed_and_given, results = self._write(database)
        parameters = tuple(_parameter(each, database) for each in fixed_and_given)
        direct, rest = "", parameters
        if database.vendor == "sqlite":
            direct, rest = _spelt_out(sql, parameters)
        written = self._written[database.vendor] = Written(
            sql=sql,
            parameters=parameters,
            direct=direct,
            direct_parameters=rest,
            results=results,
        )
        return written

    def _run(
        self, values: dict[str, Any], take: Callable[[Any], R], *, end: str = ""
    ) -> tuple[R, Written, Any]:
        """What `take` makes of the cursor; with what, and where it was carried out."""
        database = getattr(_own, "database", None) or _connected()
        written = self._written.get(database.vendor) or self._put_together(database)
        return written.run(database, values, take, end), written, database


def _parameter(stands_there: Any, database: Any) -> tuple[str, type | None, Any]:
    if not isinstance(stands_there, Parameter):
        return "", None, stands_there
    field: Any = stands_there.output_field
    store: Conversion = field.get_db_prep_save
    kind = getattr(field, "target_field", field).get_internal_type()
    plain = PLAIN.get(kind)
    if plain is str:
        store = _texts(store)
    elif database.vendor == "sqlite" and kind in ON_SQLITE:
        store = ON_SQLITE[kind](store)
    return stands_there.name, plain, store


def _spelt_out(sql: str, parameters: Parameters) -> tuple[str, Parameters]:
    """
    `sql` for SQLite's own cursor, and the parameters that are left.

    What is the same each time stands in it. A value that decides whether a partial
    index will do would have SQLite plan the statement again each time it is given.
    """
    coming = iter(parameters)
    left = []

    def spelt(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        name, _, value = parameter = next(coming)
        if not name and type(value) is int:
            return str(value)
        if not name and isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        left.append(parameter)
        return "?"

    return re.sub("%[%s]", spelt, sql), tuple(left)


class Select(_Statement):
    """A query for tuples: `build` makes it with `values_list`."""

    def __init__(self, build: Callable[[], QuerySet[Any, Any]]) -> None:
        super().__init__()
        self._build = build

    def _write(self, database: Any) -> tuple[str, Row, Results]:
        compiler = self._build().query.get_compiler(connection=database)
        sql, parameters = compiler.as_sql()
        converters = compiler.get_converters(
            [column for column, _, _ in compiler.select]
        )
        results = tuple(
            (place, _reading(functions, expression))
            for place, (functions, expression) in converters.items()
        )
        return sql, tuple(parameters), results

    def rows(self, *, limit: int | None = None, **values: Any) -> list[Row]:
        """All rows, or the first `limit` of them."""
        end = "" if limit is None else f" LIMIT {limit:d}"
        found, written, database = self._run(values, _all, end=end)
        if not written.results:
            return found
        return [_converted(row, written.results, database) for row in found]

    def row(self, **values: Any) -> Row | None:
        """The first row, if there is any."""
        return next(iter(self.rows(**values)), None)


def _all(cursor: Any) -> list[Row]:
    return cursor.fetchall()  # type: ignore[no-any-return]


def _converted(row: Row, results: Results, database: Any) -> Row:
    columns = list(row)
    for place, convert in results:
        columns[place] = convert(columns[place], database)
    return tuple(columns)


def _reading(functions: list[Any], expression: Any) -> Conversion:
    """What the ORM does to the values of a column."""

    def read(value: Any, database: Any) -> Any:
        if type(value) is datetime and value.tzinfo is None:
            # SQLite's driver leaves out that all times are UTC.
            return value.replace(tzinfo=UTC)
        for function in functions:
            value = function(value, expression, database)
        return value

    return read


class SelectObject(Generic[M]):
    """A query for one object, whole."""

    def __init__(self, build: Callable[[], QuerySet[M]]) -> None:
        self._build = build
        self._select = Select(self._columns)

    def _columns(self) -> QuerySet[M, tuple[Any, ...]]:
        query = self._build()
        self._model = query.model
        self._names = [field.attname for field in query.model._meta.concrete_fields]
        return query.values_list(*self._names)

    def first(self, **values: Any) -> M | None:
        """The first that there is."""
        row = self._select.row(**values)
        if row is None:
            return None
        found = self._model.__new__(self._model)
        found.__dict__.update(zip(self._names, row, strict=True))
        found._state = ModelState()
        found._state.adding, found._state.db = False, "default"
        return found


class Update(_Statement):
    """Sets `fields` of the rows that `build` selects."""

    def __init__(
        self, build: Callable[[], QuerySet[Any]], fields: Callable[[], dict[str, Any]]
    ) -> None:
        super().__init__()
        self._build = build
        self._fields = fields

    def _write(self, database: Any) -> tuple[str, Row, Results]:
        query: UpdateQuery = self._build().query.chain(UpdateQuery)  # type: ignore[assignment]
        query.add_update_values(self._fields())
        sql, parameters = query.get_compiler(connection=database).as_sql()
        return sql, tuple(parameters), ()

    def run(self, **values: Any) -> int:
        """How many rows there were."""
        return self._run(values, _count)[0]


def _count(cursor: Any) -> int:
    return int(cursor.rowcount)


class Insert(_Statement):
    """
    Makes rows of one model.

    `columns` are what `make` is given, by the names of their attributes (`parent_id`);
    the others have their fields' default, the same each time. Without any, all are
    those of the row that `run` is given.
    """

    def __init__(self, model: type[Model], *columns: str) -> None:
        super().__init__()
        self._model = model
        self._columns = columns

    def _write(self, database: Any) -> tuple[str, Row, Results]:
        columns = self._model._meta.concrete_fields
        fields = [each for each in columns if not each.db_returning]
        stand_ins = {
            each.attname: Parameter(each.attname, each)
            for each in fields
            if not self._columns or each.attname in self._columns
        }
        query = InsertQuery(self._model)
        query.insert_values(fields, [self._model(**stand_ins)])
        compiler = query.get_compiler(connection=database)
        compiler.returning_fields = [each for each in columns if each.db_returning]
        [(sql, parameters)] = compiler.as_sql()
        return sql, tuple(parameters), ()

    def make(self, **values: Any) -> Any:
        """Store a row without making an object of it; the key the database gives."""
        return self._run(values, _key)[0]

    def run(self, row: Model) -> None:
        """Store `row`, which brings its key."""
        self._run(row.__dict__, _count)
        row._state.adding, row._state.db = False, "default"


def _key(cursor: Any) -> Any:
    return cursor.fetchone()[0]
