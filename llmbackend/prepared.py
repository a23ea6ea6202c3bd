"""
Statements that the ORM writes once, for what every question and every request asks.

To put a query together costs Django ten times what SQLite needs to carry it out. A
statement of this module is put together at its first use; after that it is given its
values only. See docs/decisions/0005-prepared-statements.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar

from django.db import connections
from django.db.models import Expression, Field, Model, QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery

M = TypeVar("M", bound=Model)
R = TypeVar("R")

Row = tuple[Any, ...]
# Of a value, and the connection that it is for or comes from.
Conversion = Callable[[Any, Any], Any]
Results = tuple[tuple[int, Conversion], ...]

# What fields of a kind store as it is.
PLAIN = {
    **dict.fromkeys(("AutoField", "BigAutoField", "BigIntegerField"), int),
    **dict.fromkeys(("IntegerField", "PositiveIntegerField"), int),
    **dict.fromkeys(("CharField", "TextField"), str),
    "BooleanField": bool,
}


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

    `direct` is the same for SQLite's own cursor, and empty elsewhere. A parameter is
    a value's name and how it is stored, or "" and the value itself.
    """

    sql: str
    direct: str
    parameters: tuple[tuple[str, Any], ...]
    results: Results

    def run(
        self, database: Any, values: dict[str, Any], take: Callable[[Any], R], end: str
    ) -> R:
        """What `take` makes of the cursor that has carried it out."""
        parameters = [
            rest(values[name], database) if name else rest
            for name, rest in self.parameters
        ]
        # What Django puts around a cursor costs more than most statements take.
        if self.direct and not (database.queries_logged or database.execute_wrappers):
            database.validate_no_broken_transaction()
            if database.connection is None:
                database.ensure_connection()
            with database.wrap_database_errors:
                execute = database.connection.execute
                sql = self.direct + end
                try:
                    made = execute(sql, parameters)
                except sqlite3.OperationalError as exc:
                    made = database.in_turn(exc, partial(execute, sql, parameters))
                try:
                    return take(made)
                finally:
                    made.close()
        with database.cursor() as cursor:
            cursor.execute(self.sql + end, parameters)
            return take(cursor)


class _Statement:
    """`build` is called at the first use, when all models are there."""

    def __init__(self) -> None:
        # A test may use another database than the last one did.
        self._written: dict[str, Written] = {}

    def _write(self, database: Any) -> tuple[str, Row, Results]:
        raise NotImplementedError

    def _for(self, database: Any) -> Written:
        written = self._written.get(database.vendor)
        if written is None:
            sql, parameters, results = self._write(database)
            direct = sql.replace("%s", "?").replace("%%", "%")
            written = self._written[database.vendor] = Written(
                sql=sql,
                direct=direct if database.vendor == "sqlite" else "",
                parameters=tuple(map(_parameter, parameters)),
                results=results,
            )
        return written

    def _run(
        self, values: dict[str, Any], take: Callable[[Any], R], *, end: str = ""
    ) -> R:
        database = connections["default"]
        return self._for(database).run(database, values, take, end)


def _parameter(stands_there: Any) -> tuple[str, Any]:
    if not isinstance(stands_there, Parameter):
        return "", stands_there
    field = stands_there.output_field
    store = field.get_db_prep_save
    target = getattr(field, "target_field", field)
    plain = PLAIN.get(target.get_internal_type())

    def stored(value: Any, database: Any) -> Any:
        if value is None or type(value) is plain:
            return value
        return store(value, database)

    return stands_there.name, store if plain is None else stored


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
        database = connections["default"]
        written = self._for(database)
        found = written.run(database, values, _all, end)
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
        return self._model.from_db("default", self._names, row)


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
        return self._run(values, _count)


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
        return self._run(values, _key)

    def run(self, row: Model) -> None:
        """Store `row`, which brings its key."""
        self._run(row.__dict__, _count)
        row._state.adding, row._state.db = False, "default"


def _key(cursor: Any) -> Any:
    return cursor.fetchone()[0]
