"""What a teacher is asked to write in, and that traditional Chinese goes through what simplified goes through."""

import pytest

from alpaca.generation import languages, tokens
from alpaca.generation.config import GenerateConfig, SourceConfig, TeacherConfig
from alpaca.generation.dedupe import Pool
from alpaca.generation.filters import Filter, FilterConfig
from alpaca.generation.items import Item, clear_input
from alpaca.generation.refusals import refuses
from alpaca.generation.requests import Requests


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("zh", "一律用中文书写"),
        ("zh-CN", "一律用简体中文书写"),
        ("zh-TW", "一律用繁體中文（臺灣用語）书写"),
        ("zh_Hant", "一律用繁體中文书写"),
        ("zh-HK", "一律用繁體中文（香港用語）书写"),
        ("zh-Hans-HK", "一律用简体中文书写"),
        ("yue", "Write in Cantonese."),
        ("pt-BR", "Write in Brazilian Portuguese."),
        ("es-MX", "Write in Spanish as written in Mexico."),
        ("sr-Latn", "Write in Serbian in Latin script."),
        ("sw", "Write in Swahili."),
        ("en", "Write in English."),
    ],
)
def test_a_teacher_is_asked_for_a_language_by_its_name(code: str, asked: str) -> None:
    config = GenerateConfig(TeacherConfig("local", "m"), SourceConfig("seeds", "x"), language=code)
    assert asked in Requests(config, [Item("Say it.", "", "It.")], []).make(0, []).prompts[0]


def test_a_code_without_a_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    config = GenerateConfig(TeacherConfig("local", "m"), SourceConfig("seeds", "x"), language="qya")
    Requests(config, [], [])
    assert "language=qya has no name here" in capsys.readouterr().err
    assert "ja is Japanese" in str(languages.problem("jp")) and languages.problem("zh-Hant-TW") is None
    assert len([code for code in languages.NAMES if len(code) == 2]) == 184


@pytest.mark.parametrize("code", ["zh-TW", "yue"])
def test_traditional_chinese_is_filtered_as_simplified_is(code: str) -> None:
    check = Filter(FilterConfig(), code).reason
    assert check(Item("列出三種水果", "", "蘋果、梨、桃")) is None
    assert check(Item("計畫一次旅行的行程", "", "第一天到臺北")) is None
    assert check(Item("水果", "", "蘋果")) == "instruction too short"
    assert check(Item("請描述這張圖片的內容", "", "一隻貓")) == "instruction needs more than text"
    assert check(Item("撰寫一個程式來排序", "", "好")) is not None
    for refusal in (
        "作為一個人工智慧，我不能",
        "我無法回答這個問題。",
        "很抱歉，我不能提供幫助",
        "作為AI語言模型",
        "抱歉，我沒有辦法協助您",
    ):
        assert check(Item("列出三種水果", "", refusal)) == "output refuses", refusal
    for answer in ("作為人工智慧的重要分支，機器學習很有用", "抱歉，我昨天沒能參加你的生日會。"):
        assert check(Item("列出三種水果", "", answer)) is None
    assert [clear_input(way) for way in ("無", "（無輸入）", "不需要輸入", "無需額外輸入")] == [""] * 4
    pool = Pool(code)
    pool.add("請列出三種水果")
    found = pool.match("請列出三種水果。")
    assert found is not None and found.score == 1.0


def test_japanese_refusals() -> None:
    check = Filter(FilterConfig(), "ja").reason
    for refusal in ("申し訳ありませんが、その質問にはお答えできません。", "AI言語モデルとして、意見はありません。"):
        assert check(Item("果物を三つ挙げてください", "", refusal)) == "output refuses"
    for answer in ("申し訳ありませんが、明日の会議には出席できません。", "AIの研究者として働く。"):
        assert check(Item("断りの返事を書いてください", "", answer)) is None


@pytest.mark.parametrize(
    ("refusals", "answers"),
    [
        (
            ["Je suis désolé, mais je ne peux pas vous aider avec cela.", "En tant qu'IA, je n'ai pas d'opinion.",
             "En tant que modèle de langage, je ne peux pas."],
            ["Je suis désolé, mais je ne peux pas venir demain.", "En tant qu'ingénieur, je construis des ponts."],
        ),
        (
            ["Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.", "Als KI-Sprachmodell habe ich keine Meinung.",
             "Leider kann ich diese Frage nicht beantworten."],
            ["Es tut mir leid, aber ich kann morgen nicht kommen.", "Als Kind spielte ich gern."],
        ),
        (
            ["Lo siento, pero no puedo ayudarte con eso.", "Como modelo de lenguaje, no tengo opiniones."],
            ["Lo siento, pero no puedo ir a tu fiesta.", "Como médico, recomiendo dormir."],
        ),
        (
            ["Desculpe, mas não posso responder a essa pergunta.", "Como uma IA, não tenho sentimentos."],
            ["Desculpe, mas não posso ir amanhã.", "Como professor, ensino história."],
        ),
        (
            ["Mi dispiace, ma non posso aiutarti.", "In quanto modello linguistico, non ho opinioni."],
            ["Mi dispiace, ma non posso venire.", "Come medico consiglio di dormire."],
        ),
        (
            ["Извините, но я не могу помочь с этим.", "Как языковая модель, я не имею мнения."],
            ["Извините, но я не могу прийти завтра.", "Как врач, я советую спать."],
        ),
        (
            ["죄송하지만 그 질문에는 답변해 드릴 수 없습니다.", "AI 언어 모델로서 저는 의견이 없습니다."],
            ["죄송하지만 내일은 참석하지 못합니다.", "인공지능은 컴퓨터 과학의 한 분야입니다."],
        ),
    ],
)  # fmt: skip
def test_refusals_in_other_languages(refusals: list[str], answers: list[str]) -> None:
    assert [refuses(text) for text in refusals + answers] == [True] * len(refusals) + [False] * len(answers)


@pytest.mark.parametrize("code", ["zh", "cmn", "zho", "chi", "nan", "hak", "yue", "jpn", "kor"])
def test_lengths_are_counted_in_characters_under_codes_of_three_letters_too(code: str) -> None:
    assert tokens.by_character(code)


def test_english_has_its_rules_under_its_three_letters() -> None:
    assert tokens.tokenizer("eng") is tokens.english
