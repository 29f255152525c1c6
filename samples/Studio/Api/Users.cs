namespace OpenSora.Studio.Api;

/// <summary>Identifies users. Without authentication, a user is a browser: a random identifier in a cookie. In an application with authentication,
/// its user names are used.</summary>
internal static class Users
{
    private const string Cookie = "studio-user";
    private static readonly object Key = new();

    /// <summary>Gives each new browser its identifier.</summary>
    public static IApplicationBuilder UseStudioUsers(this IApplicationBuilder app) =>
        app.Use(
            (context, next) =>
            {
                if (context.User.Identity is { IsAuthenticated: true, Name: { } name })
                {
                    context.Items[Key] = name;
                }
                else if (Guid.TryParseExact(context.Request.Cookies[Cookie], "N", out var known))
                {
                    context.Items[Key] = $"browser:{known:N}";
                }
                else if (!context.Request.Path.StartsWithSegments("/health", StringComparison.Ordinal))
                {
                    var created = Guid.NewGuid();
                    context.Items[Key] = $"browser:{created:N}";
                    context.Response.Cookies.Append(
                        Cookie,
                        created.ToString("N"),
                        new CookieOptions
                        {
                            HttpOnly = true,
                            SameSite = SameSiteMode.Lax,
                            Secure = context.Request.IsHttps,
                            MaxAge = TimeSpan.FromDays(365),
                            IsEssential = true,
                        }
                    );
                }

                return next(context);
            }
        );

    /// <summary>Gets the user, who owns the jobs.</summary>
    public static string GetUser(this HttpContext context) => (string)context.Items[Key]!;

    /// <summary>Gets what the limits of requests are counted for: the user if authenticated; otherwise the address, because anybody can delete a
    /// cookie.</summary>
    public static string GetClient(this HttpContext context) =>
        context.User.Identity is { IsAuthenticated: true, Name: { } name } ? name : context.Connection.RemoteIpAddress?.ToString() ?? "";
}
