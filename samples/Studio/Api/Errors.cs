using Microsoft.AspNetCore.Diagnostics;
using OpenSora.ModelFolders;

namespace OpenSora.Studio.Api;

/// <summary>Answers exceptions of endpoints with problem details (RFC 9457).</summary>
internal sealed class Errors : IExceptionHandler
{
    public async ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
    {
        var (status, detail) = exception switch
        {
            // The inner exception is the reason in the JSON document.
            BadHttpRequestException bad => (bad.StatusCode, bad.InnerException?.Message ?? bad.Message),
            InvalidModelException => (StatusCodes.Status503ServiceUnavailable, $"The model could not be loaded. {exception.Message}"),
            _ => (StatusCodes.Status500InternalServerError, "The server failed. Its log has the details."),
        };
        await TypedResults.Problem(detail, statusCode: status).ExecuteAsync(httpContext);
        return true;
    }
}
