using System.Text.Json;
using Microsoft.AspNetCore.Diagnostics;
using OpenSora.ModelFolders;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Api;

/// <summary>Answers exceptions of endpoints with problem details (RFC 9457).</summary>
internal sealed class Errors : IExceptionHandler
{
    public async ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
    {
        var (status, detail) = exception switch
        {
            BadHttpRequestException { InnerException: JsonException json } bad => (
                bad.StatusCode,
                $"The JSON document is invalid at '{json.Path}'. Compare the name and the type of this property with /openapi/v1.json."
            ),
            BadHttpRequestException bad => (bad.StatusCode, bad.Message),
            InvalidModelException => (StatusCodes.Status503ServiceUnavailable, $"The model could not be loaded. {exception.Message}"),
            JobStoreUnavailableException => (StatusCodes.Status503ServiceUnavailable, exception.Message),
            _ => (StatusCodes.Status500InternalServerError, "The server failed. Its log has the details."),
        };
        await TypedResults.Problem(detail, statusCode: status).ExecuteAsync(httpContext);
        return true;
    }
}
