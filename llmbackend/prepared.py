"""
Statements that the ORM writes once, for what every question and every request asks.

To put a query together costs Django ten times what SQLite needs to carry it out. A
statement of this module is put together at its first use; after that it is given its
values only. See docs/decisions/0005-prepared-statements.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Expression, Field, Model, QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery

M = TypeVar("M", bound=Model)

Row = tuple[Any, ...]
Compiled = tuple[str, Row]


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


class _Statement:
    """`build` is called at the first use, when all models are there."""

    def __init__(self) -> None:
        # A test may use another database than the last one did.
        self._compiled: dict[str, Compiled] = {}

    def _write(self) -> Compiled:
        raise NotImplementedError

    def _executed(self, cursor: Any, values: dict[str, Any], *, end: str = "") -> None:
        compiled = self._compiled.get(connection.vendor)
        if compiled is None:
            compiled = self._compiled[connection.vendor] = self._write()
        sql, parameters = compiled
        cursor.execute(
            sql + end,
            tuple(
                each.output_field.get_db_prep_save(values[each.name], connection)
                if isinstance(each, Parameter)
                else each
                for each in parameters
            ),
        )


class Select(_Statement):
    """A query for tuples: `build` makes it with `values_list`."""

    def __init__(self, build: Callable[[], QuerySet[Any, Any]]) -> None:
        super().__init__()
        self._build = build
        self._converters: dict[str, Any] = {}

    def _write(self) -> Compiled:
        compiler = self._build().query.get_compiler(connection=connection)
        sql, parameters = compiler.as_sql()
        columns = [column for column, _, _ in compiler.select]
        self._converters[connection.vendor] = (
            compiler,
            compiler.get_converters(columns),
        )
        return sql, tuple(parameters)

    def rows(self, *, limit: int | None = None, **values: Any) -> list[Row]:
        """All rows, or the first `limit` of them."""
        end = "" if limit is None else f" LIMIT {limit:d}"
        with connection.cursor() as cursor:
            self._executed(cursor, values, end=end)
            found: list[Row] = cursor.fetchall()
        compiler, converters = self._converters[connection.vendor]
        if not converters:
            return found
        return [tuple(row) for row in compiler.apply_converters(found, converters)]

    def row(self, **values: Any) -> Row | None:
        """The first row, if there is any."""
        return next(iter(self.rows(**values)), None)


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
        return self._model.from_db(connection.alias, self._names, row)


class Update(_Statement):
    """Sets `fields` of the rows that `build` selects."""

    def __init__(
        self, build: Callable[[], QuerySet[Any]], fields: Callable[[], dict[str, Any]]
    ) -> None:
        super().__init__()
        self._build = build
        self._fields = fields

    def _write(self) -> Compiled:
        query: UpdateQuery = self._build().query.chain(UpdateQuery)  # type: ignore[assignment]
        query.add_update_values(self._fields())
        sql, parameters = query.get_compiler(connection=connection).as_sql()
        return sql, tuple(parameters)

    def run(self, **values: Any) -> int:
        """How many rows there were."""
        with connection.cursor() as cursor:
            self._executed(cursor, values)
            return int(cursor.rowcount)


class Insert(_Statement):
    """Makes rows of one model."""

    def __init__(self, model: type[Model]) -> None:
        super().__init__()
        self._model = model

    def _write(self) -> Compiled:
        columns = self._model._meta.concrete_fields
        fields = [each for each in columns if not each.db_returning]
        stand_ins = {each.attname: Parameter(each.attname, each) for each in fields}
        query = InsertQuery(self._model)
        query.insert_values(fields, [self._model(**stand_ins)])
        compiler = query.get_compiler(connection=connection)
        compiler.returning_fields = [each for each in columns if each.db_returning]
        [(sql, parameters)] = compiler.as_sql()
        return sql, tuple(parameters)

    def run(self, row: Model) -> None:
        """Store `row`, which then has its key, if that is the database's to give."""
        with connection.cursor() as cursor:
            self._executed(cursor, row.__dict__)
            if self._model._meta.pk.db_returning:
                row.pk = cursor.fetchone()[0]
        row._state.adding, row._state.db = False, connection.alias
