"""A combo's options, looked up only when somebody reads them."""

from collections.abc import Callable, Iterable


def populate_before(method: Callable) -> Callable:
    """The method of list, on a LazyList that has its items."""

    def read(self, *arguments):
        if self.find:
            self.extend(list(self.find()))
            self.find = None
        return method(self, *arguments)

    return read


class LazyList(list):
    """A list of what `find` gives, which is asked once, when the list is first read.

    The host asks for a node's inputs several times a prompt, on its event loop, and reads the options for /object_info
    alone: with thousands of model folders every prompt would wait until they are listed.
    """

    find: Callable[[], Iterable] | None = None

    @classmethod
    def of(cls, find: Callable[[], Iterable]) -> "LazyList":
        lazy = cls()
        lazy.find = find
        return lazy

    __iter__, __reversed__ = populate_before(list.__iter__), populate_before(list.__reversed__)
    __len__, __getitem__ = populate_before(list.__len__), populate_before(list.__getitem__)
    __contains__, index, count = populate_before(list.__contains__), populate_before(list.index), populate_before(list.count)
    __eq__, __ne__, __repr__ = populate_before(list.__eq__), populate_before(list.__ne__), populate_before(list.__repr__)
    __add__, copy = populate_before(list.__add__), populate_before(list.copy)

    def __radd__(self, other: list) -> list:
        return other + list(self)
