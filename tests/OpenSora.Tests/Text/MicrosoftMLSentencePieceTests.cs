namespace OpenSora.Tests.Text;

/// <summary>Documents why the library has its own tokenizer for T5: the results of Microsoft.ML.Tokenizers for the same models. A failure means
/// that the package has changed and can be used.</summary>
public class MicrosoftMLSentencePieceTests
{
    [Fact]
    public void A_model_without_a_begin_token_such_as_that_of_T5_is_not_read()
    {
        using var model = File.OpenRead(TestFiles.Data("sentencepiece", "t5.model"));
        Should.Throw<IndexOutOfRangeException>(() =>
            Microsoft.ML.Tokenizers.SentencePieceTokenizer.Create(model, addBeginningOfSentence: false, addEndOfSentence: true)
        );
    }
}
