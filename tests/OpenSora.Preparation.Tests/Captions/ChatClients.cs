using System.ClientModel;
using System.ClientModel.Primitives;
using Microsoft.Extensions.AI;
using OllamaSharp;
using OpenAI;
using OpenSora.Preparation.Captions;

namespace OpenSora.Preparation.Tests.Captions;

/// <summary>The clients of both protocols.</summary>
internal static class ChatClients
{
    public static IChatClient Ollama(CaptionServer server, string model = "llava:7b") =>
        new OllamaApiClient(ChatStatusHandler.CreateClient(server.Address), model);

    public static IChatClient OpenAI(CaptionServer server, string model = "llava-1.6") => new OpenAIClient(
            new ApiKeyCredential("none"),
            new OpenAIClientOptions
            {
                Endpoint = server.OpenAIAddress,
                Transport = new HttpClientPipelineTransport(ChatStatusHandler.CreateClient()),
                RetryPolicy = new ClientRetryPolicy(maxRetries: 0),
                NetworkTimeout = Timeout.InfiniteTimeSpan,
            }
        ).GetChatClient(model).AsIChatClient();

    public static IChatClient For(string protocol, CaptionServer server) =>
        protocol switch
        {
            "ollama" => Ollama(server),
            "openai" => OpenAI(server),
            _ => throw new ArgumentException(protocol, nameof(protocol)),
        };
}
