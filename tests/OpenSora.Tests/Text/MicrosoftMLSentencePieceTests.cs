namespace OpenSora.Tests.Text;

/// <summary>Why T5's tokenizer is our own: what Microsoft.ML.Tokenizers does with the same models. A failure here means that it has changed and may
/// be taken.</summary>
public class MicrosoftMLSentencePieceTests
{
    [Fact]
    public void A_model_without_an_opening_token_as_T5s_is_not_read()
    {
        using var model = File.OpenRead(TestFiles.Data("sentencepiece", "t5.model"));
        Should.Throw<IndexOutOfRangeException>(() =>
            Microsoft.ML.Tokenizers.SentencePieceTokenizer.Create(model, addBeginningOfSentence: false, addEndOfSentence: true)
        );
    }
}
