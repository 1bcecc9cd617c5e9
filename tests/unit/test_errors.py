"""Errors of the core as Python sees them."""

from __future__ import annotations

import errno
import inspect
import os
import pickle

import pytest

from vmthaw import _core, errors


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=lambda number: errno.errorcode[number])
def test_an_errno_becomes_the_class_python_gives_it_and_a_vmthaw_error(number: int) -> None:
    with pytest.raises(errors.VmthawOSError) as caught:
        _core._raise_system_error(number, "ioctl(UFFDIO_COPY)", "wake the range", 0x7F0000001000)
    error = caught.value
    expected = type(OSError(number, ""))
    assert isinstance(error, expected)
    assert isinstance(error, errors.VmthawError)
    assert error.errno == number
    assert error.operation == "ioctl(UFFDIO_COPY)"
    assert error.remedy == "wake the range"
    assert error.address == 0x7F0000001000
    assert error.cause == os.strerror(number)
    text = f"ioctl(UFFDIO_COPY) at 0x7f0000001000: {os.strerror(number)}; wake the range"
    assert error.strerror == text
    assert str(error) == f"[Errno {number}] {text}"


def test_an_error_without_address_and_remedy_does_not_mention_them() -> None:
    with pytest.raises(PermissionError) as caught:
        _core._raise_system_error(errno.EPERM, "userfaultfd")
    assert isinstance(caught.value, errors.VmthawPermissionError)
    assert caught.value.strerror == "userfaultfd: Operation not permitted"
    assert caught.value.address is None
    assert caught.value.remedy == ""


def test_an_error_survives_pickling() -> None:
    with pytest.raises(errors.VmthawOSError) as caught:
        _core._raise_system_error(errno.ESRCH, "read", "start it again", 4096)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is errors.VmthawProcessLookupError
    assert (copy.errno, copy.operation, copy.remedy, copy.address) == (errno.ESRCH, "read", "start it again", 4096)


def test_every_class_of_the_errors_module_derives_from_vmthaw_error_and_says_what_it_is() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert len(classes) > 20
    for cls in classes:
        assert issubclass(cls, errors.VmthawError)
        assert cls.__doc__
