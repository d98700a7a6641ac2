"""A combo's options, looked up only when somebody reads them."""

from collections.abc import Callable, Iterable


def filled_first(method: Callable) -> Callable:
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

    __iter__, __reversed__ = filled_first(list.__iter__), filled_first(list.__reversed__)
    __len__, __getitem__ = filled_first(list.__len__), filled_first(list.__getitem__)
    __contains__, index, count = filled_first(list.__contains__), filled_first(list.index), filled_first(list.count)
    __eq__, __ne__, __repr__ = filled_first(list.__eq__), filled_first(list.__ne__), filled_first(list.__repr__)
    __add__, copy = filled_first(list.__add__), filled_first(list.copy)

    def __radd__(self, other: list) -> list:
        return other + list(self)
