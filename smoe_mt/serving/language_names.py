"""English names of languages, for lists that people choose from."""

from __future__ import annotations

from smoe_mt.language_codes import is_english
from smoe_mt.languages import library_code

TABLE = """
af Afrikaans|am Amharic|an Aragonese|ar Arabic|as Assamese|az Azerbaijani|be Belarusian|bg Bulgarian|bn Bengali|br Breton|bs Bosnian
ca Catalan|cs Czech|cy Welsh|da Danish|de German|dz Dzongkha|el Greek|eo Esperanto|es Spanish|et Estonian|eu Basque|fa Persian|fi Finnish
fo Faroese|fr French|fur Friulian|fy Western Frisian|ga Irish|gd Scottish Gaelic|gl Galician|gu Gujarati|ha Hausa|he Hebrew|hi Hindi
hr Croatian|hu Hungarian|hy Armenian|id Indonesian|ig Igbo|is Icelandic|it Italian|ja Japanese|ka Georgian|kk Kazakh|km Khmer|kn Kannada
ko Korean|ku Kurdish|ky Kyrgyz|lb Luxembourgish|li Limburgish|lt Lithuanian|lv Latvian|mg Malagasy|mk Macedonian|ml Malayalam|mn Mongolian
mr Marathi|ms Malay|mt Maltese|my Burmese|nb Norwegian Bokmål|ne Nepali|nl Dutch|nn Norwegian Nynorsk|nso Northern Sotho|oc Occitan|or Odia
pa Punjabi|pl Polish|ps Pashto|pt Portuguese|rn Rundi|ro Romanian|ru Russian|rw Kinyarwanda|se Northern Sami|sh Serbo-Croatian|si Sinhala
sk Slovak|sl Slovenian|sq Albanian|sr Serbian|ss Swati|sv Swedish|ta Tamil|te Telugu|tg Tajik|th Thai|tk Turkmen|tl Filipino|tr Turkish
tt Tatar|ug Uyghur|uk Ukrainian|ur Urdu|uz Uzbek|vi Vietnamese|wa Walloon|xh Xhosa|yi Yiddish|yo Yoruba|zh Chinese|zu Zulu
"""
NAMES = {
    code: name for entry in TABLE.replace("\n", "|").split("|") if entry for code, name in [entry.split(maxsplit=1)]
}


def name_of(language: str) -> str:
    """Such as "Portuguese (BR)" for pt_BR; the code itself for a language that has no name here."""
    name = "English" if is_english(language) else NAMES.get(library_code(language))
    if name is None:
        return language
    rest = " ".join(language.split("_")[1:])
    return f"{name} ({rest})" if rest else name
