"""What a language code is called, so that a teacher is asked for Traditional Chinese and not for zh-TW.

Codes are those of BCP 47: a language of ISO 639, perhaps a script, perhaps a region. Knows no prompts.
"""

import re

from alpaca.generation.tokens import base

_TWO = """aa Afar|ab Abkhazian|ae Avestan|af Afrikaans|ak Akan|am Amharic|an Aragonese|ar Arabic|as Assamese|av Avaric|ay Aymara
az Azerbaijani|ba Bashkir|be Belarusian|bg Bulgarian|bi Bislama|bm Bambara|bn Bengali|bo Tibetan|br Breton|bs Bosnian
ca Catalan|ce Chechen|ch Chamorro|co Corsican|cr Cree|cs Czech|cu Church Slavonic|cv Chuvash|cy Welsh|da Danish|de German
dv Dhivehi|dz Dzongkha|ee Ewe|el Greek|en English|eo Esperanto|es Spanish|et Estonian|eu Basque|fa Persian|ff Fulah|fi Finnish
fj Fijian|fo Faroese|fr French|fy Western Frisian|ga Irish|gd Scottish Gaelic|gl Galician|gn Guarani|gu Gujarati|gv Manx
ha Hausa|he Hebrew|hi Hindi|ho Hiri Motu|hr Croatian|ht Haitian Creole|hu Hungarian|hy Armenian|hz Herero|ia Interlingua
id Indonesian|ie Interlingue|ig Igbo|ii Sichuan Yi|ik Inupiaq|io Ido|is Icelandic|it Italian|iu Inuktitut|ja Japanese
jv Javanese|ka Georgian|kg Kongo|ki Kikuyu|kj Kuanyama|kk Kazakh|kl Greenlandic|km Khmer|kn Kannada|ko Korean|kr Kanuri
ks Kashmiri|ku Kurdish|kv Komi|kw Cornish|ky Kyrgyz|la Latin|lb Luxembourgish|lg Ganda|li Limburgish|ln Lingala|lo Lao
lt Lithuanian|lu Luba-Katanga|lv Latvian|mg Malagasy|mh Marshallese|mi Maori|mk Macedonian|ml Malayalam|mn Mongolian
mr Marathi|ms Malay|mt Maltese|my Burmese|na Nauru|nb Norwegian Bokmål|nd North Ndebele|ne Nepali|ng Ndonga|nl Dutch
nn Norwegian Nynorsk|no Norwegian|nr South Ndebele|nv Navajo|ny Chichewa|oc Occitan|oj Ojibwa|om Oromo|or Odia|os Ossetian
pa Punjabi|pi Pali|pl Polish|ps Pashto|pt Portuguese|qu Quechua|rm Romansh|rn Kirundi|ro Romanian|ru Russian|rw Kinyarwanda
sa Sanskrit|sc Sardinian|sd Sindhi|se Northern Sami|sg Sango|sh Serbo-Croatian|si Sinhala|sk Slovak|sl Slovenian|sm Samoan
sn Shona|so Somali|sq Albanian|sr Serbian|ss Swati|st Southern Sotho|su Sundanese|sv Swedish|sw Swahili|ta Tamil|te Telugu
tg Tajik|th Thai|ti Tigrinya|tk Turkmen|tl Tagalog|tn Tswana|to Tongan|tr Turkish|ts Tsonga|tt Tatar|tw Twi|ty Tahitian
ug Uyghur|uk Ukrainian|ur Urdu|uz Uzbek|ve Venda|vi Vietnamese|vo Volapük|wa Walloon|wo Wolof|xh Xhosa|yi Yiddish|yo Yoruba
za Zhuang|zh Chinese|zu Zulu"""
_THREE = """yue Cantonese|cmn Mandarin Chinese|wuu Wu Chinese|nan Southern Min|hak Hakka|lzh Classical Chinese|fil Filipino|ceb Cebuano
ckb Central Kurdish|haw Hawaiian|hmn Hmong|ilo Ilocano|mai Maithili|bho Bhojpuri|mni Manipuri|lus Mizo|kok Konkani|doi Dogri
sat Santali|gom Goan Konkani|nso Northern Sotho|kri Krio|ast Asturian|gsw Swiss German|hsb Upper Sorbian|dsb Lower Sorbian
sah Yakut|tet Tetum|tpi Tok Pisin|pap Papiamento|scn Sicilian|vec Venetian|szl Silesian|arz Egyptian Arabic|ary Moroccan Arabic
apc Levantine Arabic|prs Dari|tzm Central Atlas Tamazight|kab Kabyle"""
NAMES = dict(entry.split(" ", 1) for entry in re.split(r"[|\n]", f"{_TWO}\n{_THREE}"))
"""Code -> English name."""
_SCRIPTS = {"latn": "Latin", "cyrl": "Cyrillic", "arab": "Arabic", "deva": "Devanagari", "guru": "Gurmukhi", "beng": "Bengali", "tfng": "Tifinagh", "mong": "Mongolian"}  # fmt: skip
_REGIONS = {
    "TW": "Taiwan", "HK": "Hong Kong", "MO": "Macau", "CN": "mainland China", "SG": "Singapore", "MY": "Malaysia", "BR": "Brazil", "PT": "Portugal",
    "AO": "Angola", "MZ": "Mozambique", "GB": "Britain", "UK": "Britain", "US": "the United States", "AU": "Australia", "NZ": "New Zealand",
    "IE": "Ireland", "CA": "Canada", "IN": "India", "ZA": "South Africa", "NG": "Nigeria", "KE": "Kenya", "PH": "the Philippines", "ES": "Spain",
    "MX": "Mexico", "AR": "Argentina", "CO": "Colombia", "CL": "Chile", "PE": "Peru", "VE": "Venezuela", "UY": "Uruguay", "CU": "Cuba", "419": "Latin America",
    "FR": "France", "BE": "Belgium", "CH": "Switzerland", "LU": "Luxembourg", "DE": "Germany", "AT": "Austria", "IT": "Italy", "NL": "the Netherlands",
    "EG": "Egypt", "SA": "Saudi Arabia", "MA": "Morocco", "AE": "the Emirates", "IR": "Iran", "AF": "Afghanistan", "PK": "Pakistan", "BD": "Bangladesh",
    "TZ": "Tanzania", "UG": "Uganda", "RS": "Serbia", "BA": "Bosnia", "ME": "Montenegro", "MD": "Moldova", "UA": "Ukraine", "RU": "Russia", "JP": "Japan",
    "KR": "South Korea", "KP": "North Korea", "TH": "Thailand", "VN": "Vietnam", "ID": "Indonesia", "SE": "Sweden", "FI": "Finland", "NO": "Norway", "DK": "Denmark",
}  # fmt: skip
_USUAL = {"pt-BR": "Brazilian Portuguese", "pt-PT": "European Portuguese", "en-GB": "British English", "en-US": "American English", "es-419": "Latin American Spanish", "es-ES": "European Spanish", "fr-CA": "Canadian French"}  # fmt: skip
_MISTAKEN = {"jp": "ja", "cn": "zh", "kp": "ko", "vn": "vi", "ua": "uk", "cz": "cs", "gr": "el", "dk": "da", "iw": "he", "in": "id", "rs": "sr", "by": "be"}  # fmt: skip


def problem(code: str) -> str | None:
    """What is wrong with a code, as the end of a sentence, or None. Codes of three letters are many: all pass."""
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", code):
        return "it takes a code such as en, zh, zh-TW, ja or pt-BR"
    first = re.split("[-_]", code.lower())[0]
    if len(first) == 2 and first not in NAMES:
        meant = f"; {_MISTAKEN[first]} is {NAMES[_MISTAKEN[first]]}" if first in _MISTAKEN else ""
        return f"ISO 639 has no language {first}{meant}; it takes a code such as en, zh, zh-TW, ja or pt-BR"
    return None


def known(code: str) -> bool:
    """Whether a code has a name here."""
    return base(code) in NAMES


def traditional(code: str) -> bool:
    """Whether a code is of Chinese in traditional characters."""
    parts = re.split("[-_]", code.strip().lower())
    written = "hant" in parts or not {"hans", "cn", "sg", "my"} & set(parts) and bool({"tw", "hk", "mo"} & set(parts))
    return base(code) in ("zh", "yue") and (written or parts[0] == "yue" and "hans" not in parts)


def name(code: str, words: str = "en") -> str:
    """What a code is called in a prompt in English or, for Chinese, in a Chinese one (`words`=zh); the code itself where it has no name."""
    parts = re.split("[-_]", code.strip())
    script = next((p.lower() for p in parts[1:] if len(p) == 4 and p.isalpha()), "")
    region = next((p.upper() for p in parts[1:] if len(p) == 2 or p == "419"), "")
    if words == "zh" and base(code) == "zh":
        return _in_chinese(code, script, region)
    called = NAMES.get(base(code), code)
    if base(code) == "zh":
        called = "Traditional Chinese" if traditional(code) else "Simplified Chinese" if script or region else "Chinese"
    elif usual := _USUAL.get(f"{parts[0].lower()}-{region}"):
        return usual
    if script in _SCRIPTS:
        called += f" in {_SCRIPTS[script]} script"
    return called + (f" as written in {_REGIONS[region]}" if region in _REGIONS and region != "CN" else "")


def _in_chinese(code: str, script: str, region: str) -> str:
    if not traditional(code):
        return "简体中文" if script or region else "中文"
    return {"TW": "繁體中文（臺灣用語）", "HK": "繁體中文（香港用語）", "MO": "繁體中文（澳門用語）"}.get(
        region, "繁體中文"
    )
