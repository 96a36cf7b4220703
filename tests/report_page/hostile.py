"""Titles that mean harm."""

HOSTILE = [
    "<script>window.harmed = 1</script>",
    "</script><img src=x onerror='window.harmed = 2'>",
    "<b>bold</b> & <a href='javascript:window.harmed=3'>link</a>",
    "{{ 7 * 7 }} $x^2$ %{x}",
]
