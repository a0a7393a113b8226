"""Answers in which a model declines to answer, in the languages that most teachers write. Knows nothing of rows.

Known by an apology with what cannot be done, or by a model that speaks of itself as one. An answer that is a letter of
regrets is none: "I'm sorry, but I cannot come".
"""

import re

_APOLOGY = r"(?:(?:i'?m |i am )?(?:very |so |truly )?sorry|i (?:sincerely )?apologi[sz]e|(?:my )?apologies|unfortunately)\b[,.:;! ]*(?:(?:but|however)\b,? ?)?"
_UNABLE = r"i(?: (?:cannot|can't|can not|won't|will not|(?:am|will) (?:unable|not able) to|won't be able to)|(?:'m|'ll) (?:unable|not able) to)"
_HELP = r"(?:help|assist|provide|fulfil|comply|answer|respond|complete (?:this|that|your|the)|do that\b)"
_MORE = r"(?:do (?:this|it)\b|generate|create|write|produce|perform|process|access|discuss|engage|offer|share|play)"
_AI = r"as an? (?:ai|artificial intelligence)(?:,| i\b| (?:language |chat)?(?:model|assistant|system|program|bot)\b)|as a (?:large )?language model\b"
_ENGLISH = rf"(?:{_APOLOGY}(?:{_UNABLE} (?:{_HELP}|{_MORE})|{_AI}|as an ai\b)|{_UNABLE} {_HELP}|{_AI}|i(?:'m| am) (?:just )?an ai\b)"
_ANYWHERE = r"\bas an ai (?:language )?model\b|\bi (?:do not|don't|cannot|can't) [^.\n]{0,60}\bas an ai\b"

_AI_ZH = r"作为(?:一个|一名|一款)?(?:(?:ai|人工智能)(?:(?:语言)?(?:模型|助手|助理|程序|程式)|[，, ]*我)|大?型?语言模型)"
_UNABLE_ZH = r"(?:无法|不能|没法|没有办法)(?:直接)?(?:回答|提供|帮助|帮你|帮您|协助|完成|满足|生成|处理|执行|给出|访问|造访|存取|浏览)"
_CHINESE = rf"(?:(?:(?:很|非常)?抱歉|对不起)[，,。！ ]*(?:但是?)?(?:我[^。！\n]{{0,8}}{_UNABLE_ZH}|作为(?:一个)?ai\b|{_AI_ZH})|我{_UNABLE_ZH}|{_AI_ZH})"
_SIMPLIFIED = str.maketrans(
    "為個語無沒辦幫協滿處執給訪瀏覽對慧", "为个语无没办帮协满处执给访浏览对能"
)  # of the words above; 智慧 is 智能

_JAPANESE = (
    r"(?:(?:申し訳(?:ありません|ございません)|すみません|恐れ入ります)が?[、。 ]*(?:[^。\n]{0,40}(?:お答え|回答|ご?提供|お手伝い|生成|ご?対応|アクセス)(?:すること)?(?:は|が)?(?:いた)?でき(?:ません|かねます))"
    r"|(?:私は)?(?:ai|人工知能)(?:の|である)?(?:大規模)?(?:言語モデル|アシスタント|モデル)(?:として|なので|であるため|です(?:が|ので)))"
)
_KOREAN = (
    r"(?:(?:죄송합니다|죄송하지만|미안하지만)만?[,. ]*[^.\n]{0,40}(?:도와|도움|답변|대답|제공|생성|처리|수행|접근)[^.\n]{0,8} 수 없"
    r"|(?:저는 )?(?:ai|인공 ?지능)(?: 언어)? ?(?:모델|어시스턴트|비서)?(?:로서|로써|이기 때문에|이므로|이라서))"
)

_OTHERS = {  # as a model; sorry, but; I cannot; help, answer, provide, do that, create
    "fr": (
        r"en tant qu(?:e |['’])(?:une? )?(?:ia\b|intelligence artificielle|(?:grand )?mod[èe]le (?:de langage|linguistique)|assistante? (?:ia|virtuel))",
        r"(?:je suis (?:vraiment |sincèrement )?désolée?|désolée?|je m['’]excuse|malheureusement)[,.: ]*(?:mais )?",
        r"je ne (?:peux|suis) pas (?:en mesure de |capable de )?",
        r"(?:vous |t['’]|te )?(?:aider|assister|répondre|fournir|faire cela|accéder|générer|traiter|satisfaire)",
    ),
    "de": (
        r"als (?:eine? )?(?:ki\b|künstliche intelligenz|(?:großes )?sprachmodell|ki-\w+|virtueller assistent)",
        r"(?:es tut mir (?:sehr )?leid|tut mir leid|entschuldigung|leider)[,.: ]*(?:aber )?",
        r"(?:ich kann|kann ich) (?:\w+ ){0,6}?(?:nicht|keine?n?|leider)\b",
        r"[^.\n]{0,60}(?:helfen|antworten|beantworten|bereitstellen|unterstützen|weiterhelfen|zugreifen|generieren)",
    ),
    "es": (
        r"como (?:una? )?(?:ia\b|inteligencia artificial|(?:gran )?modelo (?:de lenguaje|lingüístico)|asistente (?:de ia|virtual))",
        r"(?:lo siento(?: mucho)?|lo lamento|disculpa|disculpe|lamentablemente|perdón)[,.: ]*(?:pero )?",
        r"no (?:puedo|soy capaz de|me es posible) ",
        r"(?:ayudar|asistir(?:te|le)|responder|proporcionar|cumplir|acceder|generar|procesar|hacer eso)",
    ),
    "pt": (
        r"como (?:uma? )?(?:ia\b|inteligência artificial|(?:grande )?modelo (?:de linguagem|linguístico)|assistente (?:de ia|virtual))",
        r"(?:desculpe|sinto muito|lamento|peço desculpas?|infelizmente)[,.: ]*(?:mas )?",
        r"(?:eu )?não (?:posso|consigo|sou capaz de) ",
        r"(?:ajudar|ajudá|auxiliar|responder|fornecer|cumprir|acessar|gerar|processar|fazer isso)",
    ),
    "it": (
        r"(?:come|in quanto) (?:una? |un['’])?(?:ia\b|intelligenza artificiale|modello (?:linguistico|di linguaggio)|assistente (?:ia|virtuale))",
        r"(?:mi dispiace|sono spiacente|purtroppo|mi scuso)[,.: ]*(?:ma )?",
        r"non (?:posso|sono in grado di|riesco a) ",
        r"(?:aiutar|assister|risponder|fornir|soddisfare|acceder|generare|farlo)",
    ),
    "ru": (
        r"(?:как|будучи|являясь) (?:большая |большой )?(?:ии\b|искусственн\w+ интеллект\w*|языков\w+ модел\w+|ии-\w+|виртуальн\w+ ассистент\w*)",
        r"(?:извините|простите|к сожалению|приношу извинения|прошу прощения)[,.: ]*(?:но )?",
        r"я не (?:могу|в состоянии|способ\w+) (?:вам |тебе )?",
        r"(?:помочь|ответить|предоставить|выполнить|сгенерировать|обработать|получить доступ)",
    ),
}
_ELSEWHERE = "|".join(f"(?:{sorry})?(?:{model}|{cannot}{help_})" for model, sorry, cannot, help_ in _OTHERS.values())

_OPENING = re.compile(rf"\W*(?:{_ENGLISH}|{_CHINESE}|{_JAPANESE}|{_KOREAN}|{_ELSEWHERE})", re.IGNORECASE)
_SAID = re.compile(_ANYWHERE, re.IGNORECASE)


def refuses(output: str) -> bool:
    """Whether an answer declines to answer: English, Chinese, Japanese, Korean, French, German, Spanish, Portuguese, Italian, Russian."""
    return bool(_OPENING.match(output.translate(_SIMPLIFIED)) or _OPENING.match(output) or _SAID.search(output))
