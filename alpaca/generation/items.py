"""What a teacher's reply is read into: items, and for everything that is no item the reason why.

Knows no reply format.
"""

import html
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """What will be a row when it passes the filters; `input` is empty where there is none."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Dropped:
    """Something in a reply that is no item: reason (a word for counting) and the text, for a person to look at."""

    reason: str
    text: str


# Names of the three parts. A strong name in a reply makes the weak ones of the same part ordinary words; the other names
# count in a reply where no item is found without them.
STRONG = {
    "instruction": ["instruction", "指令", "指示", "지시사항", "지시"],
    "input": ["input", "输入", "輸入", "入力", "입력"],
    "output": ["output", "输出", "輸出", "出力", "출력"],
}
WEAK = {
    "instruction": [
        "task",
        "question",
        "prompt",
        "任务",
        "任務",
        "问题",
        "問題",
        "题目",
        "題目",
        "質問",
        "命令",
        "명령",
        "질문",
    ],
    "input": ["context", "上下文"],
    "output": ["response", "answer", "completion", "回答", "答案", "回复", "回覆", "答え", "답변", "응답"],
}
OTHER = {
    "instruction": ["user", "human", "q", "问", "問", "タスク", "instrucción", "instrucciones", "consigne", "anweisung", "aufgabe", "instrução", "instruções", "istruzione", "istruzioni", "instructie", "instrukcja", "instruksi", "talimat", "инструкция", "задание", "вопрос", "інструкція", "завдання", "hướng dẫn", "chỉ dẫn", "التعليمات", "التعليمة", "निर्देश", "คำสั่ง"],
    "input": ["entrada", "entrée", "eingabe", "invoer", "wejście", "dane wejściowe", "masukan", "girdi", "ввод", "вход", "входные данные", "вхід", "введення", "đầu vào", "المدخلات", "المدخل", "الإدخال", "इनपुट", "อินพุต", "ข้อมูลนำเข้า"],
    "output": ["assistant", "a", "答", "salida", "sortie", "ausgabe", "saída", "uitvoer", "wyjście", "keluaran", "çıktı", "вывод", "выход", "ответ", "вихід", "вивід", "відповідь", "đầu ra", "المخرجات", "المخرج", "الإخراج", "आउटपुट", "เอาต์พุต", "ผลลัพธ์"],
}  # fmt: skip
NAMES = sorted(
    (name for group in (STRONG, WEAK, OTHER) for names in group.values() for name in names), key=len, reverse=True
)
_NO_INPUT = {
    "", "noinput", "no input", "none", "n/a", "na", "null", "nil", "not applicable", "not required", "not needed", "empty",
    "none required", "none needed", "input not needed", "input not required", "not provided", "none provided",
    "无", "无输入", "没有输入", "空", "不需要", "不适用", "暂无", "無", "無輸入", "沒有輸入", "不適用", "暫無",
    "なし", "入力なし", "該当なし", "不要", "없음", "입력 없음", "해당 없음", "ninguna", "ninguno", "sin entrada", "aucune", "aucun",
    "sans entrée", "keine", "keiner", "keine eingabe", "nenhuma", "nenhum", "sem entrada", "nessuno", "nessuna", "nessun input",
    "geen", "geen invoer", "brak", "tidak ada", "yok", "нет", "нет ввода", "не требуется", "немає", "không có", "không",
    "لا يوجد", "कोई नहीं", "ไม่มี",
}  # fmt: skip
_NO_INPUT |= {f"no {a}input{v}" for a in ("", "additional ", "further ", "specific ") for v in (" required", " needed", " is required", " is needed", " necessary", " provided", " given", "")}  # fmt: skip
_NO_INPUT |= {f"{a}需{b}输入" for a in ("无", "不", "没有") for b in ("", "要", "额外", "要额外", "其他")}
_NO_INPUT |= {f"{a}需{b}輸入" for a in ("無", "不") for b in ("", "要", "額外", "要額外", "其他")}


def whole(values: dict[str, str], text: str) -> Item | Dropped:
    """An item of the parts found; a part `input` that is not there means that there is none."""
    for name in ("instruction", "output"):
        if name not in values:
            return Dropped(f"no {name}", text)
    parts = (values["instruction"], clear_input(values.get("input", "")), values["output"])
    item = Item(*(_readable(part).strip() for part in parts))
    return item if item.instruction else Dropped("empty instruction", text)


def as_text(value: Any) -> str:
    """A part as text: a list of plain values a line each, an object as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        return "\n".join(map(as_text, value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _readable(text: str) -> str:
    """Without what no tokenizer takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def clear_input(text: str) -> str:
    """The input, or nothing where a model wrote in one of many ways that there is none."""
    bare = html.unescape(text).replace("\\", "").strip().strip("<>()[]{}（）【】《》\"'“”`*_-–—./。 ").lower()
    return "" if bare in _NO_INPUT else text.strip()
